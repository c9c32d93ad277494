'use strict';
// The page gets the changes of one view as server-sent events. Texts come from commands and from other people: they are
// set as textContent, and nothing is ever parsed as markup.

const body = document.body, view = body.dataset.view, all = body.dataset.all === 'true';
const byId = id => document.getElementById(id);
let values = {}, tables = {};

// ---- Formats

const grouped = new Intl.NumberFormat('en');
const number = n => grouped.format(n);
const plural = (n, noun) => number(n) + ' ' + noun + (n === 1 ? '' : 's');
const percent = x => Math.round(100 * x) + ' %';
const two = (a, unitA, b, unitB) => b ? a + unitA + b + unitB : a + unitA;

function duration(seconds) {
  if (seconds < 0.0995) return Math.round(seconds * 1000) + 'ms';
  if (seconds < 9.95) return seconds.toFixed(1) + 's';
  const s = Math.round(seconds), m = Math.floor(s / 60), h = Math.floor(m / 60);
  if (s < 120) return s + 's';
  if (m < 60) return two(m, 'm', m < 10 ? s % 60 : 0, 's');
  if (h < 48) return two(h, 'h', m % 60, 'm');
  return two(Math.floor(h / 24), 'd', h % 24, 'h');
}

const age = at => at ? duration(Math.max(0, Math.round((Date.now() - at) / 1000))) : '–';
const clock = at => new Date(at).toLocaleTimeString('en-GB');

function rate(perSecond) {
  if (!perSecond) return '–';
  if (perSecond >= 100) return number(Math.round(perSecond)) + '/s';
  if (perSecond >= 0.5) return perSecond.toFixed(1) + '/s';
  return (perSecond * 60).toFixed(1) + '/min';
}

function bytes(n) {
  if (!n) return '–';
  const units = ['', 'Ki', 'Mi', 'Gi', 'Ti'];
  let unit = 0;
  while (n >= 1000 && unit < 4) { n /= 1024; unit++; }
  return (n < 10 && unit ? n.toFixed(1) : Math.round(n)) + units[unit];
}

// ---- Elements

function element(name, options = {}, ...children) {
  const e = document.createElement(name);
  for (const [key, value] of Object.entries(options)) {
    if (key === 'class') e.className = value;
    else if (key in e && key !== 'list') e[key] = value;
    else e.setAttribute(key, value);
  }
  e.append(...children);
  return e;
}

function svg(name, attributes = {}, ...children) {
  const e = document.createElementNS('http://www.w3.org/2000/svg', name);
  for (const [key, value] of Object.entries(attributes)) e.setAttribute(key, value);
  e.append(...children);
  return e;
}

// text sets the text of an element if it has changed.
function text(e, value) {
  value = String(value);
  if (e.textContent !== value) e.textContent = value;
}

// since is an element with the time that has passed; tick keeps it up to date.
function since(at) {
  const e = element('time', {textContent: age(at)});
  e.dataset.at = at;
  return e;
}

function tick() {
  for (const e of document.querySelectorAll('time[data-at]')) text(e, age(Number(e.dataset.at)));
}

const states = {
  Complete: 'good', Succeeded: 'good', Ready: 'good', Running: 'busy', Failed: 'bad', Cancelled: 'bad', Suspended: 'held',
  NotReady: 'bad', Unknown: 'bad', True: 'good',
};

function state(name) {
  const e = element('span', {class: 'state', textContent: name});
  e.dataset.state = states[name] || (name.startsWith('Ready') ? 'held' : name.includes('Denied') ? 'bad' : '');
  return e;
}

function heldBy(policy) {
  const e = element('span', {class: 'state', textContent: policy});
  e.dataset.state = 'held';
  return e;
}

// meter is a bar of parts of a whole. Each part is a class and a fraction.
function meter(label, parts, mark) {
  const e = svg('svg', {class: 'meter', viewBox: '0 0 1000 8', preserveAspectRatio: 'none', role: 'img', 'aria-label': label});
  e.append(svg('rect', {class: 'back', width: 1000, height: 8}));
  let x = 0;
  for (const [name, part] of parts) {
    const width = Math.max(part > 0 ? 4 : 0, 1000 * part);
    if (width) e.append(svg('rect', {class: name, x: Math.min(x, 1000 - width), width, height: 8}));
    x += 1000 * part;
  }
  if (mark !== undefined) e.append(svg('rect', {class: 'mark', x: Math.min(990, 1000 * mark), width: 10, height: 8}));
  return e;
}

function progressOf(set) {
  const counts = set.done + (set.total ? ' of ' + set.total : '') + ' done, ' + set.failed + ' failed, ' + set.running + ' running';
  if (!set.total) return meter(counts, []);
  const failed = Math.min(set.failed, set.total - set.done);
  return meter(counts, [['done', set.done / set.total], ['failed', failed / set.total], ['running', Math.min(set.running, set.total - set.done - failed) / set.total]]);
}

const setLink = (namespace, name) => element('a', {href: 'set?namespace=' + encodeURIComponent(namespace) + '&name=' + encodeURIComponent(name), textContent: name});
const withNamespace = columns => all ? [['Namespace', 'w3', r => r.namespace], ...columns] : columns;

// ---- Tables

// table shows rows in columns of a heading, classes and a function from a row to a text or an element. A row is drawn
// again only when its data have changed.
function table(id, columns, rows, keys, none, mark) {
  const e = byId(id);
  if (!e.tHead) {
    const head = e.createTHead().insertRow();
    for (const [title, classes] of columns) head.append(element('th', {scope: 'col', class: classes, textContent: title}));
    e.append(element('tbody'));
    e.drawn = new Map();
  }
  const tbody = e.tBodies[0], drawn = new Map();
  let before = null;
  for (const key of keys) {
    const data = rows.get(key);
    let row = e.drawn.get(key);
    if (!row || row.data !== data) {
      const tr = row ? row.tr : element('tr');
      columns.forEach(([, classes, show], i) => {
        const td = tr.cells[i] || tr.appendChild(element('td', {class: classes}));
        const content = show(data);
        if (content instanceof Node) td.replaceChildren(content);
        else {
          text(td, content);
          td.title = classes.includes('number') ? '' : content;
        }
      });
      row = {tr, data};
    }
    if (mark) mark(row.tr, data);
    e.drawn.delete(key);
    drawn.set(key, row);
    const next = before ? before.nextSibling : tbody.firstChild;
    if (next !== row.tr) tbody.insertBefore(row.tr, next);
    before = row.tr;
  }
  for (const row of e.drawn.values()) row.tr.remove();
  e.drawn = drawn;
  if (e.nothing) e.nothing.remove();
  e.nothing = null;
  if (!keys.length) {
    e.nothing = element('tr', {}, element('td', {class: 'empty', colSpan: columns.length, textContent: none}));
    tbody.append(e.nothing);
  }
}

const rowsOf = name => tables[name] || {rows: new Map(), keys: []};

// ---- Now

let opened = null, samples = [];
const history = 300; // in seconds
const factor = 1.25; // of the buckets of the server

// quantile returns a quantile of a histogram in seconds, as the upper end of its bucket.
function quantile(counts, q) {
  const sum = counts.reduce((a, b) => a + b, 0);
  let seen = 0;
  for (let i = 0; i < counts.length; i++) {
    seen += counts[i];
    if (sum && seen >= q * sum) return Math.pow(factor, i) / 1000;
  }
  return null;
}

function showTotals() {
  const t = values.totals, now = Date.now();
  if (!t || !values.connection.synced) return;
  if (!opened || t.ended < opened.ended) {
    opened = {at: now, ended: t.ended, latencies: t.latencies};
    samples = [];
  }
  if (!samples.length || now - samples.at(-1).at >= 900) samples.push({at: now, ended: t.ended});
  while (samples.length > 2 && now - samples[1].at > history * 1000) samples.shift();
  text(byId('running'), number(t.running));
  text(byId('slots'), 'of ' + number(t.slots) + ' slots');
  text(byId('pending'), number(t.pending));
  text(byId('ready'), number(t.ready));
  text(byId('workers-all'), 'of ' + number(t.workers));
  const oldest = Math.min(...[...rowsOf('queues').rows.values()].map(q => q.oldest || Infinity));
  if (isFinite(oldest)) byId('oldest').replaceChildren('oldest ', since(oldest));
  else text(byId('oldest'), 'none waits');
  const latencies = t.latencies.map((n, i) => n - opened.latencies[i]);
  const median = quantile(latencies, 0.5), most = quantile(latencies, 0.95);
  text(byId('latency'), median === null ? '–' : duration(median));
  text(byId('latency-most'), median === null ? 'no start seen yet' : '95 % within ' + duration(most));
  let first = samples[0];
  for (const s of samples) if (now - s.at > 10000) first = s;
  const seconds = (now - first.at) / 1000, open = (now - opened.at) / 1000;
  text(byId('rate'), seconds < 1 ? '–' : number(Math.round((t.ended - first.ended) / seconds * 10) / 10));
  text(byId('rate-all'), number(t.ended - opened.ended) + ' in ' + duration(Math.round(open)));
  drawSpark(now);
}

function drawSpark(now) {
  const points = [], span = Math.max(30, Math.min(history, (now - opened.at) / 1000));
  for (let i = 1; i < samples.length; i++) {
    const seconds = (samples[i].at - samples[i - 1].at) / 1000;
    points.push([300 * (1 - (now - samples[i].at) / 1000 / span), (samples[i].ended - samples[i - 1].ended) / seconds]);
  }
  // The mean of neighbours: sets are counted once a second, which is not the second of the page.
  const smooth = points.map(([x], i) => {
    const near = points.slice(Math.max(0, i - 2), i + 3);
    return [x, near.reduce((sum, p) => sum + p[1], 0) / near.length];
  });
  const top = Math.max(1, ...smooth.map(p => p[1]));
  const path = smooth.map(([x, y], i) => (i ? 'L' : 'M') + x.toFixed(1) + ' ' + (46 - 42 * y / top).toFixed(1)).join('');
  const e = byId('spark');
  e.setAttribute('aria-label', 'Tasks per second over ' + duration(Math.round(span)) + ', at most ' + number(Math.round(top)));
  if (smooth.length < 2) e.replaceChildren();
  else e.replaceChildren(
    svg('path', {class: 'area', d: path + 'L' + smooth.at(-1)[0].toFixed(1) + ' 48L' + smooth[0][0].toFixed(1) + ' 48Z'}), svg('path', {class: 'line', d: path}));
}

const queueColumns = withNamespace([
  ['Queue', '', r => r.name],
  ['Weight', 'w1 number', r => number(r.weight)],
  ['Share of what runs', 'w6', r => r.share ? element('div', {class: 'withtext'},
    meter('has ' + percent(r.part) + ', its share is ' + percent(r.share), [['part', r.part]], r.share),
    element('span', {textContent: percent(r.part) + ' of ' + percent(r.share)})) : '–'],
  ['Running', 'w2 number', r => number(r.running)],
  ['Limit', 'w2 number', r => r.limit === undefined ? '–' : number(r.limit)],
  ['Pending', 'w2 number', r => number(r.pending)],
  ['Oldest', 'w2 number', r => r.oldest ? since(r.oldest) : '–'],
  ['Starts tasks', 'w3', r => r.stop ? heldBy(r.stop) : 'yes'],
]);

const workerColumns = withNamespace([
  ['Worker', '', r => r.name],
  ['Status', 'w5', r => state(r.status)],
  ['Tasks', 'w5', r => element('div', {class: 'withtext'},
    meter(r.running + ' of ' + r.slots, [['running', r.slots ? Math.min(1, r.running / r.slots) : 0]]), element('span', {textContent: r.running + ' / ' + r.slots}))],
  ['Age', 'w2 number', r => since(r.created)],
]);

const shownWorkers = 50;

function showNow() {
  showTotals();
  const queues = rowsOf('queues'), workers = rowsOf('workers');
  table('queues', queueColumns, queues.rows, queues.keys, 'No queue exists, and no task waits or runs.');
  table('workers', workerColumns, workers.rows, workers.keys.slice(0, shownWorkers), 'No workers: start one with leat up or leat-worker.');
  text(byId('workers-more'), workers.keys.length > shownWorkers ? 'The first ' + shownWorkers + ' of ' + number(workers.keys.length) + ' workers.' : '');
  drawWorkers(workers);
}

// drawWorkers draws a column for each worker, filled as far as its slots are used.
function drawWorkers(workers) {
  const e = byId('slots-map'), n = workers.keys.length;
  const width = e.clientWidth || 800, size = n > 600 ? 8 : n > 150 ? 12 : 20, columns = Math.max(1, Math.floor(width / size));
  const height = Math.ceil(n / columns) * (size + 2);
  if (n < 8) {
    e.setAttribute('height', 0);
    text(byId('slots-note'), '');
    return;
  }
  e.setAttribute('height', height);
  e.setAttribute('aria-label', number(n) + ' workers, ' + number(values.totals.ready) + ' ready, ' + number(values.totals.running) + ' of ' + number(values.totals.slots) + ' slots in use');
  text(byId('slots-note'), 'Each box is a worker, filled as far as its slots are used. A worker that is not ready is an empty frame.');
  workers.keys.forEach((key, i) => {
    const r = workers.rows.get(key);
    let box = e.children[i];
    if (!box) box = e.appendChild(svg('g', {}, svg('title'), svg('rect'), svg('rect')));
    if (box.data === r && box.columns === columns) return;
    box.data = r;
    box.columns = columns;
    const x = (i % columns) * size, y = Math.floor(i / columns) * (size + 2), used = r.slots ? Math.min(1, r.running / r.slots) : 0;
    const [title, back, fill] = box.children, side = size - 2, off = !r.status.startsWith('Ready');
    text(title, r.name + ': ' + r.status + ', ' + r.running + ' of ' + r.slots);
    const place = (rect, attributes) => Object.entries(attributes).forEach(([k, v]) => rect.setAttribute(k, v));
    place(back, {class: off ? 'off' : 'slot', x: off ? x + 1 : x, y: off ? y + 1 : y, width: off ? side - 2 : side, height: off ? side - 2 : side, rx: 1.5});
    place(fill, {class: 'used', x, y: y + side * (1 - used), width: side, height: off ? 0 : side * used, rx: 1.5});
  });
  while (e.children.length > n) e.lastChild.remove();
}

// ---- Sets

const setColumns = withNamespace([
  ['Set', '', r => setLink(r.namespace, r.name)],
  ['State', 'w3', r => state(r.state)],
  ['Progress', 'w6', r => element('div', {class: 'withtext'}, progressOf(r),
    element('span', {textContent: number(r.done) + ' / ' + (r.total ? number(r.total) : '?')}))],
  ['Failed', 'w1 number', r => r.failed ? element('span', {class: 'bad', textContent: number(r.failed)}) : '0'],
  ['Running', 'w2 number', r => number(r.running)],
  ['Rate', 'w2 number', r => rate(r.rate)],
  ['Left', 'w2 number', r => r.left < 0 ? '–' : duration(Math.round(r.left))],
  ['Queue', 'w3', r => r.queue],
  ['Age', 'w2 number', r => since(r.created)],
]);

function showSets() {
  const sets = rowsOf('sets'), part = byId('filter').value.trim().toLowerCase(), which = byId('states').value;
  const keys = sets.keys.filter(key => {
    const r = sets.rows.get(key);
    return r.name.toLowerCase().includes(part) && (!which || (which === 'failed' ? r.failed > 0 || r.state === 'Failed' : !r.ended));
  });
  table('sets', setColumns, sets.rows, keys, sets.keys.length ? 'No set matches.' : 'No sets. The commands below create one.');
  let count = number(keys.length) + ' of ' + number(values.sets || 0);
  if (values.sets > sets.keys.length) count += ', of the newest ' + number(sets.keys.length);
  text(byId('sets-count'), count);
}

// ---- One set

const numberOf = index => {
  const n = values.numbers;
  if (!n) return index;
  return n.list && n.list.length > index ? n.list[index] : (n.first || 0) + index * (n.step === undefined ? 1 : n.step);
};

function indexOf(text) {
  const wanted = Number(text), n = values.numbers;
  if (!/^[0-9]+$/.test(text)) return -1;
  if (!n) return wanted;
  if (n.list && n.list.length) return n.list.indexOf(wanted);
  const index = (wanted - (n.first || 0)) / (n.step || 1);
  return Number.isInteger(index) ? index : -1;
}

// outputOf is a button that shows the output of an index.
function outputOf(index) {
  if (index < 0) return '–';
  const e = element('button', {type: 'button', class: 'link', textContent: numberOf(index), 'aria-label': 'Show the output of index ' + numberOf(index)});
  e.addEventListener('click', () => showIndex(index));
  return e;
}

const failureColumns = [
  ['Index', 'w2 number', r => outputOf(r.index)],
  ['Exit', 'w3', r => r.exit || '–'],
  ['Last line', '', r => r.line || '–'],
  ['Worker', 'w3', r => r.worker || '–'],
  ['Ago', 'w1 number', r => since(r.ended)],
];
const slowColumns = [
  ['Index', 'w2 number', r => outputOf(r.index)],
  ['Took', 'w2 number', r => duration(r.took / 1000)],
  ['CPU', 'w2 number', r => duration(r.cpu / 1000)],
  ['Memory', 'w2 number', r => bytes(r.memory)],
  ['Exit', 'w3', r => r.exit],
  ['Worker', '', r => r.worker],
  ['Started', 'w3 number', r => element('span', {}, since(r.started), ' ago')],
];
const conditionColumns = [
  ['Type', 'w4', r => r.type],
  ['Status', 'w1', r => r.status],
  ['Reason and message', 'wrap', r => r.reason + (r.message ? ': ' + r.message : '')],
  ['Since', 'w1 number', r => since(r.at)],
];
const relationColumns = [
  ['This set', 'w4', r => r.relation],
  ['Set', '', r => setLink(r.namespace, r.name)],
  ['State', '', r => r.state],
];
const eventColumns = [
  ['Reason', 'w4', r => r.reason],
  ['Note', 'wrap', r => r.note + (r.count > 1 ? ' (' + number(r.count) + ' times)' : '')],
  ['Ago', 'w1 number', r => since(r.at)],
];

function showSet() {
  const set = values.set;
  if (set === undefined || !values.connection.synced) return;
  if (set === null) {
    text(byId('state'), 'does not exist, or was deleted');
    return;
  }
  const shown = state(set.state), e = byId('state');
  text(e, set.state);
  e.dataset.state = shown.dataset.state;
  text(byId('message'), set.message || '');
  byId('progress').replaceChildren(progressOf(set));
  const took = set.started ? (set.ended || Date.now()) - set.started : 0;
  facts([
    ['Done', number(set.done) + (set.total ? ' of ' + number(set.total) : '')], ['Failed', number(set.failed)],
    ['Running', number(set.running)], ['At a time', 'at most ' + number(set.parallelism)], ['Rate', rate(set.rate)],
    ['Left', set.left < 0 || set.ended ? '–' : duration(Math.round(set.left))], [set.ended ? 'Took' : 'Since start', took ? duration(Math.round(took / 1000)) : '–'],
    ['Median', set.median ? duration(set.median / 1000) : '–'], ['Queue', set.queue],
  ]);
  text(byId('command'), set.command);
  showMap();
  showRecords();
  const failures = rowsOf('failures'), slowest = rowsOf('slowest'), relations = rowsOf('relations'), conditions = rowsOf('conditions'), events = rowsOf('events');
  table('failures', failureColumns, failures.rows, failures.keys, 'Nothing has failed.');
  byId('exits').replaceChildren(...(values.exits || []).map(x => element('li', {}, element('b', {textContent: number(x.count)}), ' × ' + (/^[0-9]/.test(x.exit) ? 'exit code ' : '') + x.exit)));
  text(byId('failures-note'), failures.keys.length && set.failed > failures.keys.length ? 'The latest ' + number(failures.keys.length) + ' that are kept, of ' + number(set.failed) + '.' : '');
  table('slowest', slowColumns, slowest.rows, slowest.keys, 'No records.');
  table('relations', relationColumns, relations.rows, relations.keys, 'It waits for no set, and no set waits for it.');
  table('conditions', conditionColumns, conditions.rows, conditions.keys, 'None.');
  table('events', eventColumns, events.rows, events.keys, values.noEvents || 'None.');
}

function facts(all) {
  const e = byId('facts');
  all.forEach(([name, value], i) => {
    const box = e.children[i] || e.appendChild(element('div', {}, element('dt'), element('dd')));
    text(box.children[0], name);
    text(box.children[1], value);
  });
}

// ---- The map of indexes

const mostCells = 1000000, mapHeight = 300;
let map = null; // what is drawn

// ranges returns a list like "0-4,7" as pairs of first and last.
function ranges(list) {
  if (!list) return [];
  return list.split(',').map(part => {
    const dash = part.indexOf('-');
    return dash < 0 ? [+part, +part] : [+part.slice(0, dash), +part.slice(dash + 1)];
  });
}

const count = list => list.reduce((sum, [first, last]) => sum + last - first + 1, 0);

function colour(name) {
  const hex = getComputedStyle(document.documentElement).getPropertyValue('--' + name).trim();
  const [r, g, b] = [1, 3, 5].map(i => parseInt(hex.slice(i, i + 2), 16));
  return {hex, word: (255 << 24 | b << 16 | g << 8 | r) >>> 0};
}

const kinds = [['done', 'done', '✓'], ['retry', 'failed, will be retried', '↻'], ['running', 'running', '▶'], ['failed', 'failed', '✕']];

function showMap(force) {
  const m = values.map, canvas = byId('map');
  byId('map-section').hidden = !m || !m.cells;
  if (!m || !m.cells) return;
  const width = Math.max(32, byId('map-section').clientWidth - 34);
  if (!force && map && map.data === m && map.width === width) return;
  const per = Math.ceil(m.cells / mostCells), cells = Math.ceil(m.cells / per);
  let size = 16;
  while (size > 1 && Math.ceil(cells / Math.floor(width / size)) * size > mapHeight) size--;
  const columns = Math.min(cells, Math.floor(width / size)), rows = Math.ceil(cells / columns);
  map = {data: m, width, per, cells, size, columns, rows, lists: {}};
  const words = new Uint32Array(columns * rows);
  words.fill(colour('waiting').word, 0, cells);
  const list = [];
  let left = m.cells;
  for (const [kind, title, sign] of kinds) {
    const found = map.lists[kind] = ranges(m[kind]), {word} = colour(kind);
    for (const [first, last] of found) words.fill(word, Math.floor(first / per), Math.floor(last / per) + 1);
    const n = count(found);
    left -= n;
    if (n || kind !== 'retry') list.push([kind, title, sign, n]);
  }
  list.push(['waiting', 'pending', '', left]);
  byId('legend').replaceChildren(...list.map(([kind, title, sign, n]) =>
    element('li', {}, element('i', {class: kind, textContent: sign, ariaHidden: 'true'}), element('b', {textContent: number(n)}), ' ' + title)));
  canvas.setAttribute('aria-label', number(m.cells) + ' indexes: ' + list.map(([, title, , n]) => number(n) + ' ' + title).join(', '));
  paint(canvas, words);
  if (!byId('map-note').textContent) text(byId('map-note'), mapHint());
}

const mapHint = () => (map.per > 1 ? 'Each cell is ' + map.per + ' indexes. ' : '') + 'Point at a cell to see its index; click to read its output.';

// paint draws a cell for each word.
function paint(canvas, words) {
  const {size, columns, rows} = map, small = new OffscreenCanvas(columns, rows);
  small.getContext('2d').putImageData(new ImageData(new Uint8ClampedArray(words.buffer), columns, rows), 0, 0);
  const scale = size > 1 ? Math.max(1, Math.round(devicePixelRatio)) : 1;
  canvas.width = columns * size * scale;
  canvas.height = rows * size * scale;
  canvas.style.width = columns * size + 'px';
  canvas.style.height = rows * size + 'px';
  const context = canvas.getContext('2d');
  context.imageSmoothingEnabled = false;
  context.drawImage(small, 0, 0, canvas.width, canvas.height);
  if (size < 4) return;
  const step = size * scale, gap = scale;
  for (let x = step - gap; x < canvas.width; x += step) context.clearRect(x, 0, gap, canvas.height);
  for (let y = step - gap; y < canvas.height; y += step) context.clearRect(0, y, canvas.width, gap);
  if (size < 7) return;
  // Signs, so that colour is not alone.
  const side = step - gap, surface = colour('surface').hex;
  context.strokeStyle = context.fillStyle = surface;
  context.lineWidth = Math.max(1, scale * size / 9);
  const each = (kind, draw) => map.lists[kind].forEach(([first, last]) => {
    for (let i = first; i <= last; i++) draw((i % columns) * step, Math.floor(i / columns) * step);
  });
  context.beginPath();
  each('failed', (x, y) => {
    const a = side * 0.28, b = side * 0.72;
    context.moveTo(x + a, y + a);
    context.lineTo(x + b, y + b);
    context.moveTo(x + b, y + a);
    context.lineTo(x + a, y + b);
  });
  each('retry', (x, y) => { context.moveTo(x + side * 0.25, y + side / 2); context.lineTo(x + side * 0.75, y + side / 2); });
  context.stroke();
  each('running', (x, y) => context.fillRect(x + side * 0.36, y + side * 0.36, side * 0.28, side * 0.28));
}

// cellAt returns the first index of the cell at a point, -1 if there is none.
function cellAt(event) {
  const box = byId('map').getBoundingClientRect();
  const x = Math.floor((event.clientX - box.left) / map.size), y = Math.floor((event.clientY - box.top) / map.size), cell = y * map.columns + x;
  return x >= 0 && x < map.columns && cell >= 0 && cell < map.cells ? cell * map.per : -1;
}

function stateOf(index) {
  for (const [kind, title] of [...kinds].reverse()) {
    if (map.lists[kind].some(([first, last]) => first <= index && index <= last)) return title;
  }
  return 'pending';
}

// ---- Records

function showRecords() {
  const r = values.records, e = byId('durations');
  if (!r || e.data === r) return;
  e.data = r;
  let note = r.error || (r.loading ? 'Reading records.' : number(r.count) + ' attempts, half of them within ' + duration(r.median / 1000) + ', the longest ' + duration(r.longest / 1000) + '.');
  if (!r.error && !r.loading) {
    if (!r.count) note = 'No attempt is recorded yet.';
    else if (r.indexes < r.of) note += ' A sample: of ' + number(r.indexes) + ' of ' + number(r.of) + ' indexes, spread evenly, at most 10,000 records.';
    else if (r.count >= 10000) note += ' A sample: the first 10,000 records.';
    if (r.warnings) note += ' There may be more: ' + r.warnings.join(' ');
  }
  text(byId('records-note'), note);
  const counts = r.durations || [], first = counts.findIndex(n => n), last = counts.findLastIndex(n => n);
  if (first < 0) {
    e.replaceChildren();
    return;
  }
  const from = Math.max(0, first - 2), to = Math.max(last + 2, from + 12), width = 480 / (to - from + 1), top = Math.max(...counts);
  const parts = [svg('line', {x1: 0, x2: 480, y1: 98.5, y2: 98.5})];
  for (let i = from; i <= to; i++) {
    const n = counts[i] || 0, height = n ? Math.max(1.5, 92 * n / top) : 0;
    parts.push(svg('rect', {x: (i - from) * width + 1, width: Math.max(1, width - 2), y: 98 - height, height},
      svg('title', {}, 'up to ' + duration(Math.pow(factor, i) / 1000) + ': ' + number(n))));
  }
  const marks = Math.min(6, to - from);
  for (let i = 0; i <= marks; i++) {
    const bucket = from + Math.round((to - from) * i / marks), x = (bucket - from + 1) * width;
    parts.push(svg('text', {x: Math.min(478, x), y: 114, 'text-anchor': 'end'}, duration(Math.pow(factor, bucket) / 1000)));
  }
  e.replaceChildren(...parts);
  e.setAttribute('aria-label', note);
}

// ---- Output

const mostLines = 5000;
let reading = null;

function showIndex(index) {
  byId('output-index').value = numberOf(index);
  byId('output-search').value = '';
  byId('output-form').requestSubmit();
  byId('output').focus({preventScroll: true});
  byId('output-title').scrollIntoView({block: 'nearest'});
}

function addLines(lines) {
  const e = byId('output'), atEnd = e.scrollHeight - e.scrollTop - e.clientHeight < 30;
  e.append(...lines.map(line => {
    const tab = line.indexOf('\t'), [position, shown] = line.slice(0, tab).split(' '), content = line.slice(tab + 1);
    if (!shown) return element('div', {}, element('span'), element('span', {class: 'text remark', textContent: content}));
    const index = element('button', {type: 'button', class: 'link', tabIndex: -1, textContent: shown});
    index.addEventListener('click', () => showIndex(Number(position)));
    return element('div', {}, index, element('span', {class: 'text', textContent: content}));
  }));
  while (e.children.length > mostLines) e.firstChild.remove();
  if (atEnd) e.scrollTop = e.scrollHeight;
}

async function readOutput(event) {
  event.preventDefault();
  if (reading) reading.abort();
  const own = reading = new AbortController(), wanted = byId('output-index').value.trim(), status = byId('output-state');
  const query = new URLSearchParams({namespace: body.dataset.namespace, name: body.dataset.name, search: byId('output-search').value});
  byId('output').replaceChildren();
  if (wanted) {
    const index = indexOf(wanted);
    if (index < 0) {
      text(status, 'The set has no index ' + wanted + '.');
      return;
    }
    query.set('index', index);
  }
  byId('output-stop').disabled = false;
  text(status, 'Reading.');
  let ended = 'End of the output.';
  try {
    const response = await fetch('output?' + query, {signal: own.signal});
    if (!response.ok) throw new Error(await response.text());
    const decoder = new TextDecoder(), reader = response.body.getReader();
    let rest = '';
    for (;;) {
      const {done, value} = await reader.read();
      const parts = (rest + decoder.decode(value || new Uint8Array(), {stream: !done})).split('\n');
      rest = parts.pop();
      if (parts.length) addLines(parts);
      if (done) break;
    }
  } catch (error) {
    ended = own.signal.aborted ? 'Stopped.' : 'It cannot be read: ' + error.message;
  }
  if (reading !== own) return;
  reading = null;
  byId('output-stop').disabled = true;
  text(status, ended);
}

// ---- Why pending

const query = new URLSearchParams(location.search);
const chosen = {namespace: query.get('namespace') || '', name: query.get('name') || ''};

const reasonColumns = withNamespace([
  ['Oldest', 'w2 number', r => since(r.oldest)],
  ['Tasks', 'w2 number', r => number(r.count)],
  ['Of', 'w5', r => element('a', {href: 'pending?namespace=' + encodeURIComponent(r.namespace) + '&name=' + encodeURIComponent(r.explain), textContent: r.set || r.explain})],
  ['Queue', 'w3', r => r.queue],
  ['Reason', 'wrap', r => r.reason + ': ' + r.message],
]);

function showPending() {
  const reasons = rowsOf('reasons');
  table('reasons', reasonColumns, reasons.rows, reasons.keys, 'Nothing waits.', (tr, r) => {
    if (r.explain === chosen.name && r.namespace === chosen.namespace) tr.setAttribute('aria-current', 'true');
    else tr.removeAttribute('aria-current');
  });
  let waiting = plural(values.waiting || 0, 'task') + ' without a worker.' + (reasons.keys.length ? ' Choose one to explain it.' : '');
  if (values.reasons > reasons.keys.length) waiting += ' The oldest ' + reasons.keys.length + ' of ' + number(values.reasons) + ' groups.';
  text(byId('pending-count'), waiting);
  byId('explain-section').hidden = !chosen.name;
  const found = values.explanation, e = byId('explanation');
  if (!found) {
    if (chosen.name) text(byId('explain-title'), chosen.name);
    return;
  }
  text(byId('explain-title'), found.name);
  text(byId('explain-at'), 'as of ' + clock(found.at));
  const lines = found.error ? [{title: found.error}] : found.lines, drawn = JSON.stringify(lines);
  if (e.drawn === drawn) return;
  e.drawn = drawn;
  e.replaceChildren(...lines.flatMap(line => line.title ? [element('dd', {class: 'title', textContent: line.title})]
    : [element('dt', {textContent: line.about || ''}), element('dd', {textContent: line.text || ''})]));
}

// ---- The stream

const show = {now: showNow, sets: showSets, set: showSet, pending: showPending}[view];
let source = null, retry = 0, drawing = false;

function draw() {
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(() => {
    drawing = false;
    if (!values.connection) return; // a new stream has begun
    showConnection();
    show();
    body.dataset.drawn = 'true';
  });
}

function apply(patch) {
  Object.assign(values, patch.values);
  for (const [name, change] of Object.entries(patch.tables || {})) {
    const before = tables[name] || {rows: new Map(), keys: []};
    for (const [key, data] of Object.entries(change.rows || {})) before.rows.set(key, data);
    if (change.keys) {
      before.keys = change.keys;
      const kept = new Set(change.keys);
      for (const key of before.rows.keys()) if (!kept.has(key)) before.rows.delete(key);
    }
    tables[name] = before;
  }
}

function showConnection(lost) {
  const e = byId('connection'), trouble = byId('trouble'), c = values.connection;
  let name = 'live', word = 'Live', why = '';
  if (lost) [name, word, why] = ['lost', 'Disconnected', 'The page is disconnected from leat board, which may have ended. It goes on when leat board is reached again.'];
  else if (c.cause) [name, word, why] = ['lost', 'Disconnected', 'The server is not reached since ' + clock(c.since) + ': ' + c.cause + '. What you see is as it was then.'];
  else if (!c.synced) [name, word] = ['connecting', 'Reading'];
  e.dataset.state = name;
  text(e, word);
  text(trouble, why);
  trouble.hidden = !why;
}

function connect() {
  clearTimeout(retry);
  const parameters = new URLSearchParams({view});
  if (view === 'set') for (const name of ['namespace', 'name']) parameters.set(name, body.dataset[name]);
  if (view === 'pending' && chosen.name) for (const [name, value] of Object.entries(chosen)) parameters.set(name, value);
  source = new EventSource('events?' + parameters);
  source.onopen = () => { values = {}; tables = {}; };
  source.onmessage = event => { apply(JSON.parse(event.data)); draw(); };
  source.onerror = () => {
    showConnection(true);
    if (source && source.readyState === EventSource.CLOSED) retry = setTimeout(connect, 3000);
  };
}

function disconnect() {
  clearTimeout(retry);
  if (source) source.close();
  source = null;
}

// A page that is not seen costs nothing. Browsers also open at most six connections to a host.
document.addEventListener('visibilitychange', () => document.hidden ? disconnect() : source || connect());
document.addEventListener('click', async event => {
  const button = event.target.closest('button.copy');
  if (!button) return;
  try {
    await navigator.clipboard.writeText(button.parentElement.querySelector('code').textContent);
    text(button, 'Copied');
  } catch {
    text(button, 'Select it');
  }
  setTimeout(() => text(button, 'Copy'), 2000);
});
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => { if (map) showMap(true); });
addEventListener('resize', () => { if (values.connection) draw(); });
setInterval(() => {
  tick();
  if (view === 'now' && values.totals && source) showTotals();
}, 1000);

if (view === 'sets') for (const id of ['filter', 'states']) byId(id).addEventListener('input', showSets);
if (view === 'set') {
  const canvas = byId('map'), note = byId('map-note');
  canvas.addEventListener('mousemove', event => {
    const index = map ? cellAt(event) : -1;
    text(note, index < 0 ? mapHint() : 'Index ' + numberOf(index) + (map.per > 1 ? ' to ' + numberOf(Math.min(index + map.per, map.data.cells) - 1) : '') + ': ' + stateOf(index));
  });
  canvas.addEventListener('mouseleave', () => text(note, mapHint()));
  canvas.addEventListener('click', event => { const index = map ? cellAt(event) : -1; if (index >= 0) showIndex(index); });
  byId('output-form').addEventListener('submit', readOutput);
  byId('output-stop').addEventListener('click', () => reading && reading.abort());
}
connect();
