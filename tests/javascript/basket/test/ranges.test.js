import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { clamp, pairs, range } from '../src/ranges.js';

describe('clamp', () => {
  it('lifts', () => assert.equal(clamp(-1, 2, 5), 2));
  it('lowers', () => assert.equal(clamp(11), 10));
  it('keeps', () => {
    assert.equal(clamp(3, 2, 5), 3);
    assert.equal(clamp(10), 10);
  });
});

describe('range', () => {
  it('counts', () => assert.deepEqual(range(1, 4), [1, 2, 3]));
  it('steps', () => assert.deepEqual(range(0, 5, 2), [0, 2, 4]));
});

it('pairs', () => {
  assert.deepEqual(pairs(['a', 'b', 'c']), [['a', 'b'], ['b', 'c']]);
});
