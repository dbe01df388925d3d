import { clamp } from './ranges.js';

export class Basket {
  #items = new Map();

  constructor(owner, { discount = 0 } = {}) {
    this.owner = owner;
    this.discount = clamp(discount, 0, 1);
  }

  get size() {
    return this.#items.size;
  }

  add(name, price, count = 1) {
    if (typeof price !== 'number' || price < 0) {
      throw new TypeError(`no price: ${price}`);
    }
    const known = this.#items.get(name) ?? { price, count: 0 };
    known.count += count;
    this.#items.set(name, known);
    return this;
  }

  total() {
    let sum = 0;
    for (const { price, count } of this.#items.values()) {
      sum += price * count;
    }
    return sum * (1 - this.discount);
  }

  label() {
    const name = this.owner?.name ?? 'nobody';
    return `${name}: ${this.size} ${this.size === 1 ? 'thing' : 'things'}`;
  }

  async pay(bank) {
    const sum = this.total();
    if (!sum) {
      return null;
    }
    const receipt = await bank.charge(this.owner, sum);
    this.#items.clear();
    return receipt;
  }
}

export function never(value) {
  return value - 1;
}
