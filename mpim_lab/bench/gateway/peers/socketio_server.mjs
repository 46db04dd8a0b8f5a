// socket.io with its Redis adapter, as its documentation sets it up: one process, one room a user.
// Says {"port": …, "pid": …} when it listens; ends on SIGTERM. PEER_REDIS_URL and PEER_CHANNEL come by the environment.
import { createServer } from "node:http";
import { createAdapter } from "@socket.io/redis-adapter";
import { createClient } from "redis";
import { Server } from "socket.io";

const publisher = createClient({ url: process.env.PEER_REDIS_URL });
const subscriber = publisher.duplicate();
await Promise.all([publisher.connect(), subscriber.connect()]);

const server = createServer();
const io = new Server(server, {
  adapter: createAdapter(publisher, subscriber, { key: process.env.PEER_CHANNEL }),
  transports: ["websocket"],
  serveClient: false,
});
// The first request of each connection need not stay in memory: https://socket.io/docs/v4/memory-usage/
io.engine.on("connection", (raw) => {
  raw.request = null;
});

io.on("connection", (socket) => {
  socket.join(`user:${socket.handshake.auth.uid}`);
  socket.on("send", ({ id, to, text }, answer) => {
    io.to(`user:${to}`).emit("push", { id, text });
    answer({ id });
  });
  socket.on("join", ({ group }, answer) => {
    socket.join(`group:${group}`);
    answer({ group });
  });
  socket.on("say", ({ id, group, text }, answer) => {
    socket.to(`group:${group}`).emit("push", { id, text });
    answer({ id });
  });
  socket.on("notice", ({ text }) => io.emit("notice", { text }));
});

process.on("SIGTERM", () => process.exit(0));
server.listen({ port: 0, host: "127.0.0.1", backlog: 2048 }, () => {
  console.log(JSON.stringify({ port: server.address().port, pid: process.pid }));
});
