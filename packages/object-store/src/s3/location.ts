/**
 * Where a bucket is.
 *
 *     s3://BUCKET[/PREFIX][?endpoint=URL&region=NAME&path-style=0|1&ca=FILE]
 *
 * What the URI does not say comes from the environment, as for the tools of the S3 world: AWS_ENDPOINT_URL_S3,
 * AWS_ENDPOINT_URL, AWS_REGION, AWS_DEFAULT_REGION, AWS_CA_BUNDLE. Without an endpoint it is Amazon's of the region.
 * The path style is used with every endpoint that is given, and with bucket names that cannot be part of a host name.
 */
import { type BlockIoError, refuse } from "@dmkit/block-io";
import { checkKey } from "../key.ts";

/** A bucket, or a part of one. */
export interface S3Location {
  readonly bucket: string;
  /** Before every key: empty, or ending in a slash. */
  readonly prefix: string;
  readonly endpoint: URL;
  readonly region: string;
  /** Whether the bucket stands in the path instead of in the host name. */
  readonly pathStyle: boolean;
  /** A file with the certificates to trust, PEM. */
  readonly ca: string | undefined;
}

const known = ["endpoint", "region", "path-style", "ca"];

/** Whether `text` is meant to be a bucket: also one that is mistyped. A folder called so is written ./s3:… */
export function isS3Uri(text: string): boolean {
  return /^s3:/i.test(text);
}

/** The location of something in a store, and the parameters of the bucket behind it. A folder has none: a `?` is part of its name. */
export function splitParameters(text: string): readonly [path: string, parameters: string] {
  const query = isS3Uri(text) ? text.indexOf("?") : -1;
  return query < 0 ? [text, ""] : [text.slice(0, query), text.slice(query)];
}

/** Throws `EPARSE` for what is no S3 URI. */
export function parseS3Uri(text: string, variables: NodeJS.ProcessEnv = process.env): S3Location {
  const match = /^s3:\/\/([^/?#]*)(?:\/([^?#]*))?(?:\?([^#]*))?$/i.exec(text);
  if (match === null) throw malformed(text, "is not the URI of a bucket", "Write s3://BUCKET/PREFIX.");
  const [, bucket = "", path = "", query = ""] = match;
  if (!/^[a-z0-9][a-z0-9._-]{1,61}[a-z0-9]$/i.test(bucket)) {
    throw malformed(
      text,
      "names no bucket",
      "A bucket has 3 to 63 letters, digits, dots, dashes or underscores.",
    );
  }
  const trimmed = path.replace(/\/$/, "");
  if (trimmed !== "") checkKey(trimmed);
  const parameters = new URLSearchParams(query);
  for (const name of parameters.keys()) {
    if (!known.includes(name)) {
      throw malformed(text, `has a parameter ${JSON.stringify(name)}`, `Known are ${known.join(", ")}.`);
    }
    if (parameters.getAll(name).length > 1) throw malformed(text, `has ${name} twice`, "Say it once.");
  }
  const region =
    parameters.get("region") ?? variables["AWS_REGION"] ?? variables["AWS_DEFAULT_REGION"] ?? "us-east-1";
  if (!/^[a-z0-9-]{1,64}$/i.test(region)) {
    throw malformed(text, "has a region that cannot be one", "Regions are called like eu-central-1.");
  }
  const given =
    parameters.get("endpoint") ??
    variables["AWS_ENDPOINT_URL_S3"] ??
    variables["AWS_ENDPOINT_URL"] ??
    undefined;
  const style = parameters.get("path-style");
  if (style !== null && style !== "0" && style !== "1") {
    throw malformed(
      text,
      "has a path-style other than 0 and 1",
      "Write path-style=1 for https://HOST/BUCKET/KEY.",
    );
  }
  return {
    bucket,
    prefix: trimmed === "" ? "" : `${trimmed}/`,
    endpoint: parseEndpoint(text, given ?? `https://s3.${region}.amazonaws.com`),
    region,
    // Dots break the certificates of host names, capitals and underscores the names themselves.
    pathStyle: style === null ? given !== undefined || !/^[a-z0-9-]+$/.test(bucket) : style === "1",
    ca: parameters.get("ca") ?? variables["AWS_CA_BUNDLE"] ?? undefined,
  };
}

function parseEndpoint(text: string, endpoint: string): URL {
  const url = URL.canParse(endpoint) ? new URL(endpoint) : undefined;
  const sound =
    url !== undefined && /^https?:$/.test(url.protocol) && url.username === "" && url.search === "";
  if (!sound || url.pathname !== "/") {
    throw malformed(
      text,
      `has an endpoint ${JSON.stringify(endpoint)} that cannot be one`,
      "Write https://HOST[:PORT].",
    );
  }
  return url;
}

function malformed(text: string, reason: string, hint: string): BlockIoError {
  return refuse(undefined, "EPARSE", `${JSON.stringify(text)} ${reason}`, hint, "parse");
}
