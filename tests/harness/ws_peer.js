// A peer on npm's ws: prints what it sees, and does what it is told, one JSON array a line.
// `node ws_peer.js ws://host:port` dials; `node ws_peer.js` listens and prints its port.
const readline = require("readline");
const { WebSocket, WebSocketServer } = require("ws");

const say = (...event) => console.log(JSON.stringify(event));
let socket;

function use(opened) {
  socket = opened;
  socket.on("message", (data, binary) => say(binary ? "binary" : "text", data.toString()));
  socket.on("ping", (data) => say("ping", data.toString("hex"))); // ws has answered it
  socket.on("pong", (data) => say("pong", data.toString()));
  socket.on("close", (code, reason) => say("close", code, reason.toString()));
  socket.on("error", (error) => say("error", error.message));
}

if (process.argv[2]) {
  use(new WebSocket(process.argv[2]));
  socket.on("open", () => say("open"));
} else {
  const server = new WebSocketServer({ host: "127.0.0.1", port: 0 });
  server.on("listening", () => say("listening", server.address().port));
  server.on("connection", (opened) => { use(opened); say("open"); });
}

readline.createInterface({ input: process.stdin }).on("line", (line) => {
  const [method, ...values] = JSON.parse(line);
  socket[method](...values); // send, ping, close, terminate
}).on("close", () => process.exit(0));
