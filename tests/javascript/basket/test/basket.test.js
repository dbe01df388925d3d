import assert from 'node:assert/strict';
import { describe, it, test } from 'node:test';
import { Basket } from '../src/basket.js';

test('an empty basket', () => {
  const basket = new Basket(undefined);
  assert.equal(basket.size, 0);
  assert.equal(basket.label(), 'nobody: 0 things');
});

describe('a basket', () => {
  it('adds up', () => {
    const basket = new Basket({ name: 'ada' }).add('pear', 2).add('pear', 2, 2).add('fig', 1);
    assert.equal(basket.total(), 7);
    assert.equal(basket.label(), 'ada: 2 things');
  });
  it('takes a discount', () => {
    assert.equal(new Basket(null, { discount: 0.5 }).add('pear', 4).total(), 2);
  });
  it('wants a price', () => {
    assert.throws(() => new Basket(null).add('pear', '4'), TypeError);
  });
});

test('paying', async (t) => {
  const bank = { charge: async (owner, sum) => ({ owner, sum }) };
  await t.test('with something in it', async () => {
    const basket = new Basket('ada').add('pear', 3);
    assert.deepEqual(await basket.pay(bank), { owner: 'ada', sum: 3 });
    assert.equal(basket.size, 0);
  });
  await t.test('with nothing in it', async () => {
    assert.equal(await new Basket('ada').pay(bank), null);
  });
});
