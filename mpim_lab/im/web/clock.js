// A worker that ticks: the timers of a hidden window are held back for up to a minute, those of its workers are not.

let timer = 0;
onmessage = ({ data: every_ms }) => {
  clearInterval(timer);
  timer = setInterval(() => postMessage("tick"), every_ms);
};
