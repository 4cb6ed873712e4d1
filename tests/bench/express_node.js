// A node in the manner of the original system, on npm's `express` and `ws`:
// `node express_node.js N` serves HTTP on N and accepts peers on N+1. Memory only; one broadcast a
// GET. `/count` is for who measures.
const express = require("express");
const { WebSocket, WebSocketServer } = require("ws");

const port = Number(process.argv[2]);
const sockets = [];
const addresses = [];
const messages = [];

function dial(address) {
  const socket = new WebSocket(address);
  socket.on("open", () => { join(socket); addresses.push(address); });
  socket.on("error", (error) => console.error(address, error.message));
}

function join(socket) {
  sockets.push(socket);
  socket.on("close", () => sockets.splice(sockets.indexOf(socket), 1));
  socket.on("message", (data) => {
    const frame = JSON.parse(data);
    if (frame.type === "SOCKETS") {
      frame.addresses.filter((address) => !addresses.includes(address)).forEach(dial);
    } else if (frame.type === "MESSAGE") {
      messages.push(frame.data);
    }
  });
  socket.send(JSON.stringify({ type: "SOCKETS", addresses }));
}

new WebSocketServer({ host: "127.0.0.1", port: port + 1 }).on("connection", join);

const app = express();
app.get("/", (request, response) => {
  response.send(`No. sockets ${sockets.length} ${messages}`);
});
app.get("/add", (request, response) => {
  dial(request.query.address);
  response.redirect("/");
});
app.get("/commit", (request, response) => {
  const data = request.query.msg;
  messages.push(data);
  sockets.forEach((socket) => socket.send(JSON.stringify({ type: "MESSAGE", data })));
  response.redirect("/");
});
app.get("/count", (request, response) => {
  response.json({ sockets: sockets.length, messages: messages.length });
});
app.listen(port, "127.0.0.1");
