// A reporter for one test file of node's own runner: how every test ended, as JSON in the folder LORAPLUG_REPORT.
//
//     node --test-reporter=reporter.mjs FILE
import fs from 'node:fs';
import path from 'node:path';
import util from 'node:util';

const SHOWN = { depth: 4, breakLength: Infinity, maxArrayLength: 20, maxStringLength: 200, sorted: false };
const LONG = 2000;

function shown(value) {
  try {
    return util.inspect(value, SHOWN).slice(0, LONG);
  } catch {
    return '<a value that cannot be shown>';
  }
}

function explained(error) {
  const kind = String(error?.failureType ?? '');
  const cause = error?.cause ?? error;
  if (!(cause instanceof Error || util.types.isNativeError(cause)) || !cause.name) {
    const text = typeof cause === 'string' ? cause : shown(cause);
    return { kind, name: 'Error', message: text.slice(0, LONG), stack: String(error?.stack ?? '').slice(0, 4 * LONG) };
  }
  const told = { kind, name: String(cause.name), message: String(cause.message).slice(0, LONG),
    stack: String(cause.stack ?? '').slice(0, 4 * LONG) };
  if (cause.code === 'ERR_ASSERTION' && 'actual' in cause && 'expected' in cause) {
    Object.assign(told, { operator: String(cause.operator ?? ''), expected: shown(cause.expected),
      actual: shown(cause.actual) });
  }
  return told;
}

export default async function* report(source) {
  const folder = process.env.LORAPLUG_REPORT;
  const tests = [];
  let names = [];
  for await (const { type, data } of source) {
    if (type === 'test:start') {
      names = [...names.slice(0, data.nesting), data.name];
    } else if (type === 'test:pass' || type === 'test:fail') {
      const idle = data.skip !== undefined || data.todo !== undefined;
      const outcome = idle ? 'skipped' : type === 'test:pass' ? 'passed' : 'failed';
      const one = { names: [...names.slice(0, data.nesting), data.name], suite: data.details.type === 'suite', outcome,
        seconds: data.details.duration_ms / 1000 };
      if (outcome === 'failed') one.error = explained(data.details.error);
      tests.push(one);
    }
  }
  fs.writeFileSync(path.join(folder, `tests-${process.pid}.json`), JSON.stringify({ file: process.argv[1], tests }));
}
