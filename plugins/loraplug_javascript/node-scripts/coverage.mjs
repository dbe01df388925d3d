// Loaded before a test file of node's own runner: which test runs which line, as JSON in the folder LORAPLUG_COVERAGE.
//
// V8 counts how often functions and blocks run. The counters are read, and begin anew, where a test begins and ends.
// A line belongs to the tests that run some of it inside a function. What runs outside of all tests (imports, `before`)
// is noted for a line only where no function deeper than what ran begins there: `const f = (a) => a + 1` is f's line.
import fs from 'node:fs';
import inspector from 'node:inspector';
import module from 'node:module';
import path from 'node:path';
import { afterEach, beforeEach } from 'node:test';
import { fileURLToPath } from 'node:url';

const folder = process.env.LORAPLUG_COVERAGE;
if (folder) watch();

function watch() {
  const tree = process.env.LORAPLUG_TREE + path.sep;
  delete process.env.LORAPLUG_COVERAGE;
  const session = new inspector.Session();
  session.connect();
  const post = (method, parameters) => {
    let told;
    session.post(method, parameters, (error, result) => {
      if (error) throw new Error(error.message);
      told = result;
    });
    return told;
  };
  const maps = new Map();
  session.on('Debugger.scriptParsed', ({ params }) => maps.set(params.scriptId, params.sourceMapURL));
  post('Debugger.enable');
  post('Profiler.enable');
  post('Profiler.startPreciseCoverage', { callCount: true, detailed: true });

  const scripts = new Map(); // scriptId to { file, functions by "start-end" }
  const rounds = []; // { tests, counts: [scriptId, functions][] }
  const active = new Map(); // names of tests that run

  const collect = () => {
    const counts = [];
    for (const { scriptId, url, functions } of post('Profiler.takePreciseCoverage').result) {
      const file = url.startsWith('file://') ? fileURLToPath(url.replace(/[?#].*$/, '')) : url;
      if (!file.startsWith(tree) || file.includes(`${path.sep}node_modules${path.sep}`)) continue;
      if (!scripts.has(scriptId)) scripts.set(scriptId, { file, functions: new Map() });
      const known = scripts.get(scriptId).functions;
      for (const { ranges } of functions) known.set(`${ranges[0].startOffset}-${ranges[0].endOffset}`, ranges[0]);
      if (functions.some(({ ranges }) => ranges[0].count)) counts.push([scriptId, functions]);
    }
    rounds.push({ tests: [...active.keys()], counts });
  };
  const owner = (name) => [...active.keys()].find((one) => name === one || name.startsWith(`${one} > `));

  beforeEach((test) => {
    collect();
    if (owner(test.fullName) === undefined) active.set(test.fullName, true);
  });
  afterEach((test) => {
    collect();
    active.delete(test.fullName);
  });
  process.on('exit', () => {
    collect();
    const pages = new Map();
    for (const [id, script] of scripts) {
      pages.set(id, laid(script, post('Debugger.getScriptSource', { scriptId: id }).scriptSource, maps.get(id)));
    }
    const lines = {};
    for (const { tests, counts } of rounds) {
      for (const [id, functions] of counts) {
        const page = pages.get(id);
        const found = (lines[page.name.slice(tree.length)] ??= {});
        for (const line of page.lines(functions, tests.length === 0)) {
          const told = (found[line] ??= []);
          for (const test of tests.length ? tests : ['']) if (!told.includes(test)) told.push(test);
        }
      }
    }
    const name = `coverage-${process.pid}-${Date.now()}.json`;
    fs.writeFileSync(path.join(folder, name), JSON.stringify({ file: process.argv[1], lines }));
  });
}

// The words of a script, the line that each is on (in what the script was made from), and the functions around them.
function laid({ file, functions }, source, mapUrl) {
  const starts = [];
  for (const match of source.matchAll(/[\p{L}\p{N}_$]+|[^\s\p{L}\p{N}_$]/gu)) starts.push(match.index);
  const { name, lineOf } = placed(file, source, starts, mapUrl);
  const at = (offset) => {
    let [low, high] = [0, starts.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (starts[middle] < offset) low = middle + 1;
      else high = middle;
    }
    return low;
  };
  const all = [...functions.entries()].sort(([, a], [, b]) => a.startOffset - b.startOffset || b.endOffset - a.endOffset);
  const depth = new Int16Array(starts.length).fill(-1); // 0: of no function but the script itself
  for (const [, { startOffset, endOffset }] of all) {
    for (let word = at(startOffset); word < at(endOffset); word++) depth[word] += 1;
  }
  const deepest = new Map();
  lineOf.forEach((line, word) => deepest.set(line, Math.max(deepest.get(line) ?? 0, depth[word])));

  const lines = (reported, outside) => {
    const ran = new Uint8Array(starts.length);
    const told = new Map(reported.map(({ ranges }) => [`${ranges[0].startOffset}-${ranges[0].endOffset}`, ranges]));
    for (const [key, whole] of all) {
      for (const { startOffset, endOffset, count } of told.get(key) ?? [{ ...whole, count: 0 }]) {
        ran.fill(count ? 1 : 0, at(startOffset), at(endOffset));
      }
    }
    const found = new Set();
    lineOf.forEach((line, word) => {
      if (ran[word] && depth[word] > 0 && !(outside && depth[word] < deepest.get(line)) && line > 0) found.add(line);
    });
    return found;
  };
  return { name, lines };
}

function placed(file, source, starts, mapUrl) {
  const breaks = [0];
  for (let at = source.indexOf('\n'); at >= 0; at = source.indexOf('\n', at + 1)) breaks.push(at + 1);
  let row = 0;
  const places = starts.map((start) => {
    while (row + 1 < breaks.length && breaks[row + 1] <= start) row += 1;
    return [row, start - breaks[row]];
  });
  const inline = /^data:application\/json[^,]*;base64,(.*)$/s.exec(mapUrl ?? '');
  if (inline === null) return { name: file, lineOf: places.map(([line]) => line + 1) };
  const map = new module.SourceMap(JSON.parse(Buffer.from(inline[1], 'base64').toString()));
  const lineOf = places.map(([line, column]) => (map.findEntry(line, column).originalLine ?? -1) + 1);
  return { name: file, lineOf };
}
