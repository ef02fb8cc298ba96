/** Pixels in memory, rectangles and text on them, and the PNG of it all. */
import { encode } from "fast-png";
import { FONT_HEIGHT, eachDot, textWidth } from "./font.ts";

export class Canvas {
  readonly width: number;
  readonly height: number;
  readonly #pixels: Uint8Array;

  constructor(width: number, height: number, background: string) {
    this.width = width;
    this.height = height;
    this.#pixels = new Uint8Array(width * height * 3);
    this.fill(0, 0, width, height, background);
  }

  /** @param colour `#rrggbb` */
  fill(x: number, y: number, width: number, height: number, colour: string): void {
    const [red, green, blue] = components(colour);
    for (let row = Math.max(0, y); row < Math.min(this.height, y + height); row += 1) {
      for (let column = Math.max(0, x); column < Math.min(this.width, x + width); column += 1) {
        const at = (row * this.width + column) * 3;
        this.#pixels[at] = red;
        this.#pixels[at + 1] = green;
        this.#pixels[at + 2] = blue;
      }
    }
  }

  /** @param scale pixels of a dot. */
  text(x: number, y: number, text: string, colour: string, scale: number): void {
    eachDot(text, (column, row) => this.fill(x + column * scale, y + row * scale, scale, scale, colour));
  }

  /** Text that ends at `x`. */
  textBefore(x: number, y: number, text: string, colour: string, scale: number): void {
    this.text(x - textWidth(text, scale), y, text, colour, scale);
  }

  png(): Uint8Array {
    return encode({ width: this.width, height: this.height, data: this.#pixels, channels: 3, depth: 8 });
  }
}

/** Pixels. */
export function lineHeight(scale: number): number {
  return FONT_HEIGHT * scale;
}

function components(colour: string): readonly [number, number, number] {
  const match = /^#([0-9a-f]{2})([0-9a-f]{2})([0-9a-f]{2})$/i.exec(colour);
  if (match === null) throw new TypeError(`"${colour}" is no colour such as #1971c2`);
  const [, red = "", green = "", blue = ""] = match;
  return [Number.parseInt(red, 16), Number.parseInt(green, 16), Number.parseInt(blue, 16)];
}
