"use strict";
const ESCAPES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;"};
const safe = value => String(value).replace(/[&<>"']/g, c => ESCAPES[c]);

// -- numbers and times ---------------------------------------------------------------------------
const INFINITE = {inf: Infinity, "-inf": -Infinity, nan: NaN};
const number = value => value in INFINITE ? INFINITE[value] : value;

function shown(value) {
  value = number(value);
  if (typeof value !== "number") return value === true ? "yes" : value === false ? "no" : String(value);
  if (!Number.isFinite(value)) return Number.isNaN(value) ? "NaN" : value < 0 ? "−∞" : "∞";
  if (Number.isInteger(value) && Math.abs(value) < 1e7) return String(value).replace("-", "−");
  const size = Math.abs(value);
  const text = size >= 1e5 || size < 1e-3 ? value.toExponential(2)
    : size >= 100 ? value.toFixed(1) : value.toPrecision(3);
  return text.replace(/-/g, "−");
}

function span(seconds) {
  const whole = Math.round(seconds), two = n => String(n).padStart(2, "0");
  if (seconds < 9.95) return `${+seconds.toPrecision(2)} s`;
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${two(whole % 60)} s`;
  if (whole < 86400) return `${Math.floor(whole / 3600)} h ${two(Math.floor(whole / 60) % 60)} min`;
  return `${Math.floor(whole / 86400)} d ${Math.floor(whole / 3600) % 24} h`;
}

function clock(iso) {
  const time = new Date(iso), today = new Date();
  const two = n => String(n).padStart(2, "0");
  const hours = `${two(time.getHours())}:${two(time.getMinutes())}`;
  if (time.toDateString() === today.toDateString()) return hours;
  return `${time.getFullYear()}-${two(time.getMonth() + 1)}-${two(time.getDate())} ${hours}`;
}

// -- columns -------------------------------------------------------------------------------------
function column(id, title, value, cell, kind) { return {id, title, value, cell, kind}; }

function plain(id, title, value, kind = "number", how = shown) {
  const cell = scan => {
    const found = value(scan);
    return found === null || found === undefined ? `<td class="${kind} none">–</td>`
      : `<td class="${kind}">${safe(how(found))}</td>`;
  };
  return column(id, title, value, cell, kind);
}

function makeColumns() {
  const names = new Set();
  for (const scan of data.scans) for (const name in scan.numbers || {}) names.add(name);
  const own = [
    column("name", "scan", s => s.name, nameCell),
    column("state", "state", s => STATES.indexOf(s.state), stateCell),
    column("flags", "flags", s => (s.flags || []).length, s => `<td class="flags">${flags(s)}</td>`),
  ];
  const rest = [
    plain("status", "ended by", s => s.status, ""),
    plain("iterations", "iterations", s => s.iterations),
    plain("seconds", "seconds", s => s.seconds),
    plain("attempts", "attempts", s => s.attempts),
    plain("finished", "finished", s => s.finished, "", clock),
    column("warnings", "warnings", s => (s.warnings || []).length, warningCell, "number"),
  ];
  const taken = new Set([...own, ...rest].map(c => c.id));
  const numbers = [...names].map(name =>
    plain(taken.has(name) ? `numbers.${name}` : name, name, s => (s.numbers || {})[name]));
  columns = [...own, ...numbers, ...rest];
}

const link = scan => scan.page ? `<a href="${safe(scan.page)}">${safe(scan.name)}</a>` : safe(scan.name);

function nameCell(scan) {
  const reason = scan.reason ? `<span class="reason" title="${safe(scan.reason)}">${safe(scan.reason)}</span>` : "";
  return `<td class="name">${link(scan)}${reason}</td>`;
}

function stateCell(scan) {
  const more = scan.state === "running" ? scan.stage : scan.state === "failed" ? scan.kind : "";
  return `<td><span class="state ${scan.state}">${safe(scan.state)}</span>` +
    (more ? `<br><small>${safe(more)}</small>` : "") + "</td>";
}

function flags(scan) {
  const stale = scan.stale ? `<span class="flag stale">made of another ${safe(scan.stale)}</span>` : "";
  return (scan.flags || []).map(flag => `<span class="flag">${safe(flag)}</span>`).join("") + stale;
}

function warningCell(scan) {
  const told = scan.warnings || [];
  return told.length ? `<td class="number" title="${safe(told.join("\n"))}">${told.length}</td>`
    : `<td class="number none">–</td>`;
}
