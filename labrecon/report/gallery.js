const STATES = ["failed", "running", "done", "pending", "skipped"];
const NEWS = {running: 4000, interrupted: 30000};  // milliseconds between looks at scans.js
const SILENT = 120;  // seconds without news after which a running batch is suspect, at least
const PIECE = 150;  // scans drawn at once
const order = new Intl.Collator(undefined, {numeric: true}).compare;
const at = id => document.getElementById(id);
let data = null, columns = [];
let limit = 0;  // of the scans that are drawn; more as the reader scrolls down
let view = {state: "", sort: "", view: "table", q: "", flagged: ""};

// -- which scans, in which order -----------------------------------------------------------------
function chosen() {
  const states = view.state ? view.state.split(",") : null, words = view.q.toLowerCase();
  return data.scans.filter(scan =>
    (!states || states.includes(scan.state)) &&
    (!view.flagged || (scan.flags || []).length) &&
    (!words || `${scan.name}\n${scan.reason || ""}`.toLowerCase().includes(words)));
}

function sorted(scans) {
  const down = view.sort.startsWith("-");
  const by = columns.find(c => c.id === (down ? view.sort.slice(1) : view.sort));
  const rank = s => STATES.indexOf(s.state) + ((s.flags || []).length ? -0.5 : 0);
  const keyed = scans.map(scan => ({scan, key: by ? number(by.value(scan)) : rank(scan)}));
  const missing = k => k === null || k === undefined || k === "" || Number.isNaN(k);
  keyed.sort((a, b) => {
    const none = missing(a.key) - missing(b.key);
    if (none) return none;  // at the end, whichever way
    let least = 0;
    if (!missing(a.key)) {
      const numeric = (typeof b.key === "number") - (typeof a.key === "number");
      least = numeric || (typeof a.key === "number" ? Math.sign(a.key - b.key) || 0 : order(a.key, b.key));
    }
    return (down ? -least : least) || order(a.scan.name, b.scan.name);
  });
  return keyed.map(k => k.scan);
}

// -- drawing -------------------------------------------------------------------------------------
function row(scan) {
  const image = scan.thumbnail ? `<img loading="lazy" decoding="async" alt="" src="${safe(scan.thumbnail)}">` : "";
  return `<tr data-name="${safe(scan.name)}"><td class="picture">${image}</td>` +
    columns.map(c => c.cell(scan)).join("") + "</tr>";
}

function card(scan) {
  const picture = scan.thumbnail
    ? `<img loading="lazy" decoding="async" alt="" src="${safe(scan.thumbnail)}">`
    : `<div class="blank">${safe(scan.reason || scan.stage || "")}</div>`;
  const numbers = Object.entries(scan.numbers || {}).filter(([, value]) => value !== null).slice(0, 3);
  const mark = scan.state === "failed" ? " is-failed" : (scan.flags || []).length ? " is-flagged" : "";
  return `<article class="card${mark}" data-name="${safe(scan.name)}"><div class="frame">${picture}</div>` +
    `<div class="text">${link(scan)}<br><span class="state ${scan.state}">${safe(scan.state)}</span>` +
    `<div class="figures">${numbers.map(([k, v]) => `${safe(k)} ${safe(shown(v))}`).join(" · ")}</div>` +
    `${flags(scan)}</div></article>`;
}

const kept = {rows: new Map(), gallery: new Map()};  // name → what it was drawn from, and its element

function fill(id, scans, draw) {
  const old = kept[id], drawn = new Map(), fresh = [];
  for (const scan of scans) {
    const html = draw(scan), before = old.get(scan.name);
    if (before && before.html === html) drawn.set(scan.name, before);
    else { drawn.set(scan.name, {html}); fresh.push(scan.name); }
  }
  const template = document.createElement("template");
  template.innerHTML = fresh.map(name => drawn.get(name).html).join("");
  [...template.content.children].forEach((element, i) => { drawn.get(fresh[i]).element = element; });
  const holder = at(id);
  kept[id] = drawn;
  const elements = [...drawn.values()].map(d => d.element);
  // Where little has changed, the rest stays in place: scroll, focus and selection as well.
  const wanted = new Set(elements);
  for (const element of [...holder.children]) if (!wanted.has(element)) element.remove();
  let next = holder.firstChild;
  for (const element of elements) {
    if (element === next) next = next.nextSibling;
    else holder.insertBefore(element, next);
  }
}

function heads() {
  const [, down, by] = view.sort.match(/^(-?)(.*)$/s);
  const focused = document.activeElement && document.activeElement.dataset.sort;
  at("heads").innerHTML = "<tr><th></th>" + columns.map(c => {
    const way = c.id === by ? ` aria-sort="${down ? "descending" : "ascending"}"` : "";
    return `<th scope="col" class="${c.kind || ""}"${way}><button type="button" data-sort="${safe(c.id)}">` +
      `${safe(c.title)}</button></th>`;
  }).join("") + "</tr>";
  const again = focused && [...at("heads").querySelectorAll("button")].find(b => b.dataset.sort === focused);
  if (again) again.focus();
}

function list() {
  const begin = performance.now(), scans = sorted(chosen()), table = view.view !== "gallery";
  at("table").hidden = !table || !scans.length;
  at("gallery").hidden = table;
  heads();
  const drawn = scans.slice(0, limit);
  if (table) fill("rows", drawn, row); else fill("gallery", drawn, card);
  at("more").hidden = drawn.length === scans.length;
  at("more").textContent = `${scans.length - drawn.length} more scans: scroll down, or click for all`;
  at("found").textContent = scans.length === data.scans.length ? `${scans.length} scans`
    : `${scans.length} of ${data.scans.length} scans`;
  at("nothing").hidden = scans.length > 0;
  at("nothing").textContent = data.scans.length ? "No scan is like that." : "There is no scan yet.";
  const states = view.state ? view.state.split(",") : [];
  at("states").innerHTML = ["", ...STATES.filter(s => data.batch.counts[s])].map(state =>
    `<button type="button" data-state="${state}" aria-pressed="${state ? states.includes(state) : !states.length}">` +
    `${state || "all"}</button>`).join("");
  at("flagged").checked = !!view.flagged;
  if (at("search") !== document.activeElement) at("search").value = view.q;
  document.querySelectorAll("[data-view]").forEach(b =>
    b.setAttribute("aria-pressed", (b.dataset.view === "table") === table));
  document.body.offsetHeight;  // the layout counts
  document.body.dataset.milliseconds = Math.round(performance.now() - begin);
}

function failures() {
  const failed = data.scans.filter(scan => scan.state === "failed"), box = at("failures");
  box.hidden = !failed.length;
  const groups = new Map();
  for (const scan of failed) groups.set(scan.kind || "", [...(groups.get(scan.kind || "") || []), scan]);
  const open = new Map([...box.querySelectorAll("details")].map(d => [d.dataset.kind, d.open]));
  const html = `<h2>${failed.length} failed</h2><div class="groups">` + [...groups].map(([kind, scans]) => {
    scans.sort((a, b) => order(a.name, b.name));
    const is_open = open.get(kind) ?? (scans.length <= 10 && groups.size <= 4);
    return `<details data-kind="${safe(kind)}"${is_open ? " open" : ""}>` +
      `<summary>${scans.length} × ${safe(kind || "no kind told")}</summary><p>${safe(ADVICE[kind] || "")}</p><ul>` +
      scans.map(s => `<li>${link(s)} ${safe(s.reason || "")}</li>`).join("") + "</ul></details>";
  }).join("") + "</div>";
  if (box.dataset.drawn !== html) { box.innerHTML = html; box.dataset.drawn = html; }
}

function drift() {
  const groups = (data.batch.drift || []).filter(g => g.scans), box = at("drift");
  box.hidden = !groups.length;
  const open = new Map([...box.querySelectorAll("details")].map(d => [d.dataset.group, d.open]));
  const html = groups.map((g, i) => {
    const alarms = g.alarms.map(a => `<p class="warning">${safe(a.text)}</p>`).join("");
    const said = !g.enough ? `${g.scans} scans are too few to see a drift` :
      g.alarms.length ? `${g.alarms.map(a => a.statistic).join(", ")} drifts` : `no drift in ${g.scans} scans`;
    const plots = Object.values(g.plots).map(svg => `<figure class="plot">${svg}</figure>`).join("");
    return `<details data-group="${i}"${(open.get(String(i)) ?? g.alarms.length > 0) ? " open" : ""}>` +
      `<summary>${safe(g.title)}: ${safe(said)}</summary>${alarms}<div class="grid plots">${plots}</div></details>`;
  }).join("");
  if (box.dataset.drawn !== html) { box.innerHTML = html; box.dataset.drawn = html; }
}

function header() {
  const b = data.batch, total = Object.values(b.counts).reduce((sum, n) => sum + n, 0);
  const over = total - (b.counts.running || 0) - (b.counts.pending || 0);
  const failed = b.counts.failed ? `${b.counts.failed} failed · ` : "";
  document.title = `${failed}${over}/${total} · ${b.title}`;
  at("about").textContent = `${b.instrument} · labrecon ${b.labrecon} · ${b.output}`;
  at("title").textContent = b.title;
  at("state").textContent = b.state;
  at("state").className = `pill ${b.state}`;
  const flagged = data.scans.filter(scan => (scan.flags || []).length).length;
  at("counts").innerHTML = `<span><b>${over}</b>of ${total} scans</span>` +
    ["done", "failed", "running", "pending", "skipped"].filter(s => b.counts[s]).map(s =>
      `<span class="${s}"><b>${b.counts[s]}</b>${s}</span>`).join("") +
    (flagged ? `<span class="interrupted"><b>${flagged}</b>flagged</span>` : "");
  at("track").innerHTML = ["done", "failed", "skipped", "running"].filter(s => b.counts[s]).map(s =>
    `<i class="${s}" style="width:${100 * b.counts[s] / total}%"></i>`).join("");
  at("track").setAttribute("aria-valuenow", total ? Math.floor(100 * over / total) : 0);
  at("recipe").textContent = JSON.stringify(b.recipe, null, 2);
  const told = b.messages || [], line = text => {
    const [, when, what] = text.match(/^(\d{4}-\d\d-\d\dT\S+): (.*)$/s) || [null, "", text];
    return `<p class="warning">${when && safe(clock(when)) + " · "}${safe(what)}</p>`;
  };
  at("messages").innerHTML = told.slice(-3).map(line).join("") + (told.length > 3
    ? `<details><summary>${told.length - 3} earlier messages</summary>` +
      `${told.slice(0, -3).map(line).join("")}</details>` : "");
  at("foot").textContent = "One file and scans.js; no external resources. The address keeps what is chosen.";
}

function times() {
  const b = data.batch, now = Date.now(), heard = (now - Date.parse(b.updated)) / 1000;
  const parts = [`begun <b>${safe(clock(b.started))}</b>`];
  if (b.seconds_per_scan) parts.push(`<b>${span(b.seconds_per_scan)}</b> per scan`);
  if (b.workers) parts.push(`<b>${safe(b.workers)}</b> ${b.workers === 1 ? "worker" : "workers"}`);
  if (b.state === "running") {
    if (b.estimated_end) {
      const left = (Date.parse(b.estimated_end) - now) / 1000;
      parts.push(`expected end <b>${safe(clock(b.estimated_end))}</b>${left > 0 ? `, in ${span(left)}` : ""}`);
    }
    parts.push(`last heard ${span(Math.max(0, heard))} ago`);
  } else parts.push(`${safe(b.state)} <b>${safe(clock(b.updated))}</b>`);
  at("pace").innerHTML = parts.map(part => `<span>${part}</span>`).join("");
  at("silent").hidden = b.state === "finished" || (b.state === "running" && heard < Math.max(SILENT, 3 * (b.refresh || 0)));
  const said = b.state === "running" ? `Last heard ${span(heard)} ago: interrupted? ` : "Interrupted. ";
  const text = said + "The same command goes on with the batch.";
  if (at("silent").textContent !== text) at("silent").textContent = text;
}

// -- the address, and what the reader does ---------------------------------------------------------
function fromAddress() {
  const asked = new URLSearchParams(location.hash.slice(1));
  for (const key in view) view[key] = asked.get(key) || (key === "view" ? "table" : "");
  limit = PIECE;
}

function change(changes) {
  Object.assign(view, changes);
  const told = Object.entries(view).filter(([key, value]) => value && !(key === "view" && value === "table"));
  limit = PIECE;
  history.replaceState(null, "", "#" + new URLSearchParams(told));
  list();
}

addEventListener("hashchange", () => { fromAddress(); if (data) list(); });
at("search").addEventListener("input", event => change({q: event.target.value}));
at("flagged").addEventListener("change", event => change({flagged: event.target.checked ? "1" : ""}));
document.querySelector(".views").addEventListener("click", event => {
  if (event.target.dataset.view) change({view: event.target.dataset.view});
});
at("states").addEventListener("click", event => {
  const state = event.target.dataset.state;
  if (state === undefined) return;
  const before = view.state ? view.state.split(",") : [];
  const after = before.includes(state) ? before.filter(s => s !== state) : [...before, state];
  change({state: state ? after.join(",") : ""});
  [...at("states").children].find(b => b.dataset.state === state).focus();
});
at("heads").addEventListener("click", event => {
  const by = event.target.dataset.sort;
  // Ascending, descending, and as at first.
  if (by) change({sort: view.sort === by ? `-${by}` : view.sort === `-${by}` ? "" : by});
});
at("more").addEventListener("click", () => { limit = Infinity; list(); });
new IntersectionObserver(seen => {
  if (seen.some(entry => entry.isIntersecting)) { limit += PIECE; list(); }
}, {rootMargin: "800px"}).observe(at("more"));
for (const id of ["rows", "gallery"]) at(id).addEventListener("click", event => {
  if (event.target.closest("a") || String(getSelection())) return;
  const opened = event.target.closest("[data-name]")?.querySelector("a");
  if (opened) opened.click();
});

// -- news ----------------------------------------------------------------------------------------
function labrecon_batch(told) {
  const same = data && JSON.stringify(told.scans) === JSON.stringify(data.scans);
  data = told;
  header();
  drift();
  times();
  if (!same) { makeColumns(); failures(); list(); }
}

function look() {
  const script = document.createElement("script");
  script.src = `scans.js?${Date.now()}`;
  const after = () => {
    script.remove();
    const wait = data ? NEWS[data.batch.state] : NEWS.running;
    if (wait) setTimeout(look, wait);
  };
  script.onload = after;
  script.onerror = () => {
    if (!data) at("about").textContent = "scans.js, from which this page takes its data, is not there (yet).";
    after();
  };
  document.body.append(script);
}

fromAddress();
setInterval(() => { if (data) times(); }, 1000);
look();
