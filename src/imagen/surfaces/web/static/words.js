// What the machine says, in words for people.

const PHASES = {
  loading: "Waking the model",
  encoding: "Reading the words",
  sampling: "Drawing",
  decoding: "Developing",
  saving: "Keeping it",
};

export const phase = (name) => PHASES[name] || name || "Beginning";

// A number and its unit stay on one line.
export function seconds(value) {
  if (value === null || value === undefined) return "";
  if (value < 10) return `${Math.max(0.1, Math.round(value * 10) / 10)}\u00a0s`;
  if (value < 90) return `${Math.round(value)}\u00a0s`;
  if (value < 5400) return `${Math.round(value / 60)}\u00a0min`;
  return `${Math.round(value / 360) / 10}\u00a0h`;
}

export function standing(job) {
  if (job.state === "queued") return "Waiting its turn";
  if (job.state === "running") return phase(job.progress && job.progress.phase);
  return { completed: "Done", failed: "Failed", cancelled: "Cancelled" }[job.state];
}

// "step 4 of 20 · 3 s left", or "" while nothing is known.
export function steps(job) {
  const told = job.progress;
  if (job.state === "queued") {
    const ahead = job.position > 0 ? `${count(job.position, "other")} ahead` : "";
    return dots(ahead, job.waits_for && `waits for ${job.waits_for}`);
  }
  if (job.state !== "running" || !told || !told.total) return "";
  return dots(`step ${told.step} of ${told.total}`, told.eta_s > 0.05 && `${seconds(told.eta_s)} left`);
}

// Several things; where they do not fit on a line, none begins or ends with a dot.
export const dots = (...told) => told.filter(Boolean).join("\u00a0·\u00a0");

// A sentence out of what a server said; one that begins with a name or a command leaves that as it stands.
export const sentence = (said) => said.replace(/^[a-z]+(?=[ ,])/, (word) => word[0].toUpperCase() + word.slice(1));

// What went wrong and what to do.
export const failure = ({ message, hint }) => sentence(message) + (hint ? `${/^[A-Z]/.test(hint) ? "." : ";"} ${hint}` : "");

export function count(number, one, many = `${one}s`) {
  return `${number.toLocaleString("en")} ${number === 1 ? one : many}`;
}

export function when(iso) {
  const date = new Date(iso);
  const today = new Date().toDateString() === date.toDateString();
  return date.toLocaleString(undefined, today ? { timeStyle: "short" } : { dateStyle: "medium", timeStyle: "short" });
}

const PARTS = [["queue", "waiting"], ["load", "waking"], ["encode", "reading"], ["sample", "drawing"], ["decode", "developing"], ["save", "keeping"]];

// Seconds of work for a picture: without waiting for its turn, which `total` leaves out, and without waking the model.
export const worked = (told) => (told.total || 0) - (told.load || 0);

export function timings(told, { waiting = true } = {}) {
  return PARTS.filter(([name]) => told[name] >= 0.05 && (waiting || name !== "queue")).map(([name, word]) => `${seconds(told[name])} ${word}`).join(", ");
}
