// The stand-in for an original on npm's `express`: `node express_node.js N` serves HTTP on N and
// accepts peers on N+1. `/count` is for who measures.
const express = require("express");
const { port, sockets, messages, dial, commit, shown } = require("../harness/original.js");

const app = express();
app.get("/", (request, response) => {
  response.send(shown());
});
app.get("/add", (request, response) => {
  dial(request.query.address);
  response.redirect("/");
});
app.get("/commit", (request, response) => {
  commit(request.query.msg);
  response.redirect("/");
});
app.get("/count", (request, response) => {
  response.json({ sockets: sockets.length, messages: messages.length });
});
app.listen(port, "127.0.0.1");
