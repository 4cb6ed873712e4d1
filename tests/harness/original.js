// A node in the manner of the original system: `node original.js N` serves HTTP on N and accepts
// peers on N+1. Memory only; it knows SOCKETS and MESSAGE, has no ids, never relays. A program that
// requires it serves HTTP in its own way.
const http = require("http");
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
    const frame = JSON.parse(data); // no check: what is not JSON ends the process
    if (frame.type === "SOCKETS") {
      frame.addresses.filter((address) => !addresses.includes(address)).forEach(dial);
    } else if (frame.type === "MESSAGE") {
      messages.push(frame.data);
    }
  });
  socket.send(JSON.stringify({ type: "SOCKETS", addresses }));
}

new WebSocketServer({ host: "127.0.0.1", port: port + 1 }).on("connection", join);

function commit(data) {
  messages.push(data);
  sockets.forEach((socket) => socket.send(JSON.stringify({ type: "MESSAGE", data })));
}

function shown() {
  return `No. sockets ${sockets.length} ${messages}`;
}

function serve(request, response) {
  const url = new URL(request.url, "http://localhost");
  if (url.pathname === "/") {
    response.end(shown());
    return;
  }
  if (url.pathname === "/add") {
    dial(url.searchParams.get("address"));
  } else if (url.pathname === "/commit") {
    commit(url.searchParams.get("msg"));
  }
  response.writeHead(302, { Location: "/" }).end();
}

if (require.main === module) {
  http.createServer(serve).listen(port, "127.0.0.1");
}
module.exports = { port, sockets, messages, dial, commit, shown };
