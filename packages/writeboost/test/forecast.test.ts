import { describe, expect, it } from "vitest";
import { Forecast } from "../src/device/request/forecast.ts";

/** `w`: a write that foresees nothing, `W`: one that does, `f`: a client asks for a barrier. */
function heard(requests: string): string {
  const forecast = new Forecast();
  return Array.from(requests)
    .map((request) => {
      if (request !== "f") return forecast.wrote() ? "W" : "w";
      forecast.asked();
      return "f";
    })
    .join("");
}

describe("forecast", () => {
  it("foresees a barrier after the usual number of writes, once that is a habit", () => {
    expect(heard("wfwfwfwfwfwfwf")).toBe("wfwfwfwfwfWfWf");
    expect(heard("wwwfwwwfwwwfwwwfwwwfwwwfwww")).toBe("wwwfwwwfwwwfwwwfwwwfwwWfwwW");
  });

  it("counts barriers that are asked for together as one", () => {
    expect(heard("wwffwwffwwffwwffwwffwwff")).toBe("wwffwwffwwffwwffwwffwWff");
  });

  it("begins anew when the number changes", () => {
    expect(heard("wfwfwfwfwfwfwwfwfwfwfwfwfwf")).toBe("wfwfwfwfwfWfWwfwfwfwfwfwfWf");
  });

  it("foresees nothing for those who write and never flush, nor after very many writes", () => {
    const many = `${"w".repeat(65)}f`.repeat(8);
    expect(heard("w".repeat(500))).toBe("w".repeat(500));
    expect(heard(many)).toBe(many);
  });

  it("guesses wrong at most once for each barrier", () => {
    expect(heard("wfwfwfwfwfwwwwwwwwf")).toBe("wfwfwfwfwfWwwwwwwwf");
  });
});
