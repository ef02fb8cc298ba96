/** How the devices are, in words first: what is wrong, since when, and the command that helps. */
import type { FeedDevice, StatusFeed } from "../feed.ts";
import { byId, html, redraw } from "./dom.ts";
import { clock } from "./format.ts";

// Of devices that are not in order, at most so many are told of, the worst first.
const MOST = 50;

/** How a device is as one word; a suspended device is as somebody wanted it. */
export type Condition = "ok" | "degraded" | "needs check" | "failed" | "suspended" | "broken";

/** The sign goes with the word: neither colour nor sign has to be known. */
export const signs: Readonly<Record<Condition, string>> = {
  ok: "✓",
  suspended: "‖",
  degraded: "!",
  "needs check": "?",
  failed: "✕",
  broken: "✕",
};

const order: readonly Condition[] = ["failed", "broken", "needs check", "degraded", "suspended", "ok"];

export function conditionOf({ state, health }: Pick<FeedDevice, "state" | "health">): Condition {
  if (state === "broken") return "broken";
  return health.state === "ok" && state === "suspended" ? "suspended" : health.state;
}

/** A condition as the name of a class. */
export function lookOf(condition: Condition): string {
  return `is-${condition.replace(" ", "-")}`;
}

/** The devices that are not in order first, and exports of such: where there is no room for all, these are shown. */
export function illFirst(feed: StatusFeed): StatusFeed {
  const ranks = new Map(feed.devices.map((device) => [device.name, order.indexOf(conditionOf(device))]));
  const rank = (name: string): number => ranks.get(name) ?? order.length;
  return {
    ...feed,
    devices: feed.devices.toSorted((one, other) => rank(one.name) - rank(other.name)),
    exports: feed.exports.toSorted((one, other) => rank(one.device) - rank(other.device)),
  };
}

export function showHealth({ devices, control }: StatusFeed): void {
  const told = devices
    .map((device) => ({ device, condition: conditionOf(device) }))
    .filter(({ condition }) => condition !== "ok")
    .sort((one, other) => order.indexOf(one.condition) - order.indexOf(other.condition));
  const ill = told.filter(({ condition }) => condition !== "suspended").length;
  const worst: Condition = told[0]?.condition ?? "ok";
  const key = [
    told.map(({ device, condition }) => [device.name, condition, device.health]),
    devices.length,
    control,
  ];
  const isTold = (name: string): boolean => told.some(({ device }) => device.name === name);
  redraw(byId("health-body", HTMLDivElement), key, () => [
    html("p", { class: `verdict ${lookOf(worst)}` }, `${signs[worst]} ${verdict(devices.length, ill)}`),
    ...(told.length === 0
      ? []
      : [
          html(
            "ul",
            { class: "ills" },
            ...told.slice(0, MOST).map(({ device, condition }) => entry(device, condition, control, isTold)),
          ),
        ]),
    ...(told.length > MOST ? [html("p", {}, `And ${told.length - MOST} more.`)] : []),
  ]);
  document.title = ill === 0 ? "dmkit" : `${signs[worst]} ${ill} not in order · dmkit`;
}

function verdict(all: number, ill: number): string {
  if (all === 0) return "There are no devices.";
  const devices = (number: number): string => (number === 1 ? "1 device" : `${number} devices`);
  if (ill > 0) return `${ill} of ${devices(all)} ${ill === 1 ? "is" : "are"} not in order.`;
  return all === 1 ? "The device is in order." : `All ${devices(all)} are in order.`;
}

function entry(
  { name, health }: FeedDevice,
  condition: Condition,
  control: string | undefined,
  isTold: (name: string) => boolean,
): HTMLLIElement {
  const look = { class: lookOf(condition) };
  const since = health.since === undefined ? "" : ` since ${clock(health.since)}`;
  const is = ` is ${condition}${since}`;
  // What ails a device below is told once, of that device.
  const [, below] = /^dm:(\S+): /.exec(health.why ?? "") ?? [];
  if (below !== undefined && below !== name && isTold(below)) {
    return html(
      "li",
      look,
      html("p", {}, html("strong", {}, name), `${is}, because of `, html("strong", {}, below)),
    );
  }
  const where = control === undefined ? "" : ` -C ${quoted(control)}`;
  const verb = condition === "suspended" ? "resume" : "status";
  const why = health.why ?? "requests wait";
  return html(
    "li",
    look,
    html("p", {}, html("strong", {}, name), `${is}: ${why}`),
    ...(health.help === undefined ? [] : [html("p", { class: "help" }, health.help)]),
    html("p", {}, html("code", {}, `dmkit ${verb} ${quoted(name)}${where}`)),
  );
}

/** As a shell takes it. */
function quoted(text: string): string {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`;
}
