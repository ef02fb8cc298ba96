/**
 * Making and changing elements. What comes from the server is text and stays text: nothing here, or anywhere on the
 * page, makes markup of a string. What has not changed is left alone, so that a selection, the focus and a screen reader
 * stay where they are.
 */

export type Attributes = Readonly<Record<string, string | number>>;

const SVG = "http://www.w3.org/2000/svg";

/** An element of the page. */
export function html<Name extends keyof HTMLElementTagNameMap>(
  name: Name,
  attributes: Attributes = {},
  ...children: readonly (Node | string)[]
): HTMLElementTagNameMap[Name] {
  return filled(document.createElement(name), attributes, children);
}

/** An element of a drawing. */
export function svg<Name extends keyof SVGElementTagNameMap>(
  name: Name,
  attributes: Attributes = {},
  ...children: readonly (Node | string)[]
): SVGElementTagNameMap[Name] {
  return filled(document.createElementNS(SVG, name), attributes, children);
}

function filled<Made extends Element>(
  made: Made,
  attributes: Attributes,
  children: readonly (Node | string)[],
): Made {
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, String(value));
  made.append(...children);
  return made;
}

/** An element that page.html has. */
export function byId<Kind extends HTMLElement>(id: string, kind: new () => Kind): Kind {
  const found = document.getElementById(id);
  if (!(found instanceof kind)) throw new TypeError(`page.html has no ${id}`);
  return found;
}

export function setText(element: Element, text: string): void {
  if (element.textContent !== text) element.textContent = text;
}

const shown = new WeakMap<Element, string>();

/** Draws anew what stands in an element, if what it is made of has changed. */
export function redraw(element: Element, from: unknown, draw: () => readonly Node[]): void {
  const key = JSON.stringify(from);
  if (shown.get(element) === key) return;
  shown.set(element, key);
  element.replaceChildren(...draw());
}

/** A cell of a table; a number is one that stands to the right. */
export interface Cell {
  readonly text: string;
  readonly number?: boolean;
  /** Name of a class that says how it looks. */
  readonly look?: string;
}

/** Puts a table in an element; the first cell of a row names it. Cells that say the same stay as they are. */
export function fillTable(
  place: Element,
  caption: string,
  titles: readonly Cell[],
  rows: readonly (readonly Cell[])[],
): void {
  let table = place.querySelector("table");
  if (table === null) {
    table = html(
      "table",
      {},
      html("caption", { class: "sr" }, caption),
      html("thead", {}, html("tr")),
      html("tbody"),
    );
    place.append(table);
  }
  if (table.caption !== null) setText(table.caption, caption);
  const [head] = table.tHead?.rows ?? [];
  const [body] = table.tBodies;
  if (head === undefined || body === undefined) return;
  fillRow(head, titles, () => html("th", { scope: "col" }));
  while (body.rows.length > rows.length) body.deleteRow(-1);
  for (const [index, cells] of rows.entries()) {
    fillRow(body.rows[index] ?? body.insertRow(), cells, (number) =>
      number === 0 ? html("th", { scope: "row" }) : html("td"),
    );
  }
}

function fillRow(
  row: HTMLTableRowElement,
  cells: readonly Cell[],
  make: (number: number) => HTMLTableCellElement,
): void {
  while (row.cells.length > cells.length) row.deleteCell(-1);
  for (const [number, { text, number: isNumber = false, look = "" }] of cells.entries()) {
    const cell = row.cells[number] ?? row.appendChild(make(number));
    setText(cell, text);
    const wanted = `${isNumber ? "number" : ""} ${look}`.trim();
    if (cell.className !== wanted) cell.className = wanted;
  }
}
