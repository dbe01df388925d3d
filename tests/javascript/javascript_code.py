"""Code in JavaScript and TypeScript that the tests of this folder put bugs into, and where node is."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from loraplug import InputError
from loraplug_javascript.environment import node_program

BASKET = Path(__file__).with_name("basket")


def _why_not() -> str:
    try:
        node_program("")
    except InputError as error:
        return error.what
    return ""


needs_node = pytest.mark.skipif(bool(_why_not()), reason=f"no node that runs tests: {_why_not()}")

EVERY_KIND = """\
'use strict';

class Stack extends Base {
  #items = [];

  constructor(limit = 10) {
    super();
    this.limit = limit;
  }

  get size() {
    return this.#items.length;
  }

  async push(item, other) {
    if (!item || item === null) {
      throw new Error('no item');
    }
    for (let i = 0; i < this.limit; i++) {
      if (i === 3) continue;
      this.#items[i] = item?.name ?? other;
      await this.flush(i, item);
      this.count += 1;
      this.log(i);
      this.log(item);
    }
    const copy = [...this.#items].map((x) => x * 2).slice(0, -1);
    return copy.length > 1 ? copy[0] : undefined;
  }

  *all() {
    yield this.#items;
  }
}

const api = {
  get(a, b) { return a && b; },
  put: (a) => a.replace(/x/gi, true),
};
exports.f = function (a) { return { a }; };
Stack.prototype.peek = function () { return this.x; };
"""

TYPED = """\
export interface Priced { price: number; count?: number }

export function total(items: Priced[], discount: number = 0): number {
  let sum: number = 0;
  for (const item of items) {
    sum += item.price * (item.count ?? 1);
  }
  return sum - discount;
}

export class Till<T extends Priced> {
  private items: T[] = [];

  add(item: T): this {
    this.items.push(item);
    return this;
  }

  due(): number {
    return total(this.items as Priced[]);
  }
}
"""

TYPED_TESTS = """\
import assert from 'node:assert/strict';
import test from 'node:test';
import { Till, total } from '../src/till.ts';

test('a till', () => {
  assert.equal(new Till().add({ price: 2 }).add({ price: 3, count: 2 }).due(), 8);
});

test('a discount', () => {
  assert.equal(total([{ price: 4 }], 1), 3);
});
"""

BLANKS = r"""
import module from 'node:module';

const hooks = `
import fs from 'node:fs';
import { fileURLToPath } from 'node:url';
const TYPES = [/export interface .*/g, /: (?:number|this|T\\[\\]|T|Priced\\[\\])(?= =|[,);]| \\{)/g,
  /<T extends Priced>/g, /private /g, / as Priced\\[\\]/g];
const blank = (text) => TYPES.reduce((done, type) => done.replace(type, (found) => ' '.repeat(found.length)), text);
export async function load(url, context, next) {
  if (!url.endsWith('.ts')) return next(url, context);
  const source = blank(fs.readFileSync(fileURLToPath(url), 'utf8'));
  return { format: 'module', source, shortCircuit: true };
}`;
module.register('data:text/javascript,' + encodeURIComponent(hooks));
"""
"""Blanks out the types of `TYPED`, as tools do that keep every place where it is."""


def basket(folder: Path) -> Path:
    """A copy of the package."""
    return Path(shutil.copytree(BASKET, folder / "basket"))


def till(folder: Path) -> Path:
    """A package in TypeScript, whose types are blanked out as it is loaded."""
    for name, text in {"package.json": '{"type": "module"}\n', "src/till.ts": TYPED, "test/till.test.ts": TYPED_TESTS,
                       "blanks.mjs": BLANKS}.items():  # fmt: skip
        path = folder / "till" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder / "till"
