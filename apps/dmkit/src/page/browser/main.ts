/**
 * The page: asks the server every two seconds how it is, and shows it. What is shown may be old only where that is said:
 * if the server does not answer, or somebody has paused it.
 */
import type { StatusFeed } from "../feed.ts";
import type { Series, Span } from "../ring.ts";
import { openCharts, showCharts, spanNames } from "./charts.ts";
import { byId, html, redraw, setText } from "./dom.ts";
import { bytes, clock, duration } from "./format.ts";
import { illFirst, showHealth } from "./health.ts";
import { showMap } from "./map.ts";
import { showStack } from "./picture.ts";
import { showClients, showDevices, showRisk } from "./tables.ts";

// Milliseconds between two looks, and those a server has to answer.
const INTERVAL = 2000;
const PATIENCE = 8000;
// So many devices are shown as the server tells them: everywhere is room for them.
const MOST_IN_ORDER = 30;

const choice = byId("choice", HTMLFormElement);
const devices = byId("device", HTMLSelectElement);
const pause = byId("pause", HTMLButtonElement);
const lost = byId("lost", HTMLParagraphElement);

let paused = false;
let answered: number | undefined;
/** Begun, ever: what an older one than the last brings is not shown. */
let looks = 0;
let timer: ReturnType<typeof setTimeout> | undefined;

/** Undefined for what the server does not have. */
async function ask<Answer>(path: string): Promise<Answer | undefined> {
  const response = await fetch(path, { signal: AbortSignal.timeout(PATIENCE), cache: "no-store" });
  if (response.status === 404) return undefined;
  if (!response.ok) throw new Error(`${response.status}: ${await response.text()}`);
  return (await response.json()) as Answer;
}

function chosenSpan(): Span {
  const chosen = new FormData(choice).get("span");
  return typeof chosen === "string" && chosen in spanNames ? (chosen as Span) : "5min";
}

/** Devices to choose from; what clients use is first. */
function offerDevices({ devices: all, exports }: StatusFeed): void {
  const exported = new Set(exports.map(({ device }) => device));
  const names = [...exported, ...all.map(({ name }) => name).filter((name) => !exported.has(name))];
  const before = devices.value;
  redraw(devices, names, () => names.map((name) => html("option", { value: name }, name)));
  if (names.includes(before)) devices.value = before;
}

function showServer({ version, pid, uptime, connections, bytesInFlight }: StatusFeed): void {
  const who = connections === 1 ? "1 client" : `${connections} clients`;
  const text = `${version}, process ${pid}, up ${duration(uptime / 1000)}, ${who}, ${bytes(bytesInFlight)} in flight`;
  setText(byId("server", HTMLParagraphElement), text);
}

async function look(): Promise<void> {
  looks += 1;
  const mine = looks;
  try {
    const told = await ask<StatusFeed>("v1/status");
    if (told === undefined) throw new Error("the server has another version than this page: load it again");
    offerDevices(told);
    const feed = told.devices.length > MOST_IN_ORDER ? illFirst(told) : told;
    const [device, span] = [devices.value, chosenSpan()];
    const series =
      device === ""
        ? undefined
        : await ask<Series>(`v1/history?device=${encodeURIComponent(device)}&span=${span}`);
    if (mine !== looks) return;
    answered = Date.now();
    for (const show of [showServer, showHealth, showStack, showRisk, showDevices, showClients, showMap])
      show(feed);
    showCharts(device, span, series, feed.time);
    lost.hidden = true;
  } catch (error) {
    if (mine !== looks) return;
    lost.hidden = false;
    const since = answered === undefined ? "" : ` What is below is of ${clock(answered)}.`;
    setText(lost, `The server does not answer (${(error as Error).message}).${since}`);
  }
}

/** Looks now, and then again and again: unless it is paused, or nobody sees it. */
async function run(): Promise<void> {
  clearTimeout(timer);
  await look();
  // Another one may have been begun, and has set a timer.
  clearTimeout(timer);
  if (!paused && !document.hidden) timer = setTimeout(() => void run(), INTERVAL);
}

pause.addEventListener("click", () => {
  paused = !paused;
  pause.setAttribute("aria-pressed", String(paused));
  if (paused) clearTimeout(timer);
  else void run();
});
choice.addEventListener("change", () => void run());
choice.addEventListener("submit", (event) => event.preventDefault());
document.addEventListener("visibilitychange", () => {
  if (!document.hidden && !paused) void run();
});

openCharts();
void run();
