/**
 * Keys for signing: from the environment where they stand there, else by the provider chain of the AWS SDK (profiles,
 * SSO, web identity, containers, IMDS), which is loaded only then.
 */
import { BlockIoError, type Clock, realEnvironment } from "@dmkit/block-io";

/** What a request is signed with. */
export interface Credentials {
  readonly accessKeyId: string;
  readonly secretAccessKey: string;
  readonly sessionToken?: string | undefined;
  /** When they end; undefined for never. */
  readonly expiration?: Date | undefined;
}

/** Resolves with credentials that are valid now. */
export type CredentialProvider = () => Promise<Credentials>;

// Credentials are asked for again this long before they end, in milliseconds: longer than any attempt.
const EARLY = 120_000;

/** Credentials as everybody who speaks S3 finds them; asked for once and kept until they are about to end. */
export function defaultCredentials(
  variables: NodeJS.ProcessEnv = process.env,
  clock: Pick<Clock, "wallTime"> = realEnvironment.clock,
): CredentialProvider {
  const { AWS_ACCESS_KEY_ID: accessKeyId, AWS_SECRET_ACCESS_KEY: secretAccessKey } = variables;
  if (accessKeyId !== undefined && secretAccessKey !== undefined) {
    const fixed = { accessKeyId, secretAccessKey, sessionToken: variables["AWS_SESSION_TOKEN"] };
    return () => Promise.resolve(fixed);
  }
  return kept(async () => {
    const chain = await loadChain();
    try {
      return await chain();
    } catch (error) {
      throw missing(error);
    }
  }, clock);
}

/** Asks `provider` once for all who wait, and again shortly before what it gave ends. */
export function kept(
  provider: CredentialProvider,
  clock: Pick<Clock, "wallTime"> = realEnvironment.clock,
): CredentialProvider {
  let current: Promise<Credentials> | undefined;
  let end = Number.POSITIVE_INFINITY;
  return () => {
    if (current !== undefined && clock.wallTime() < end) return current;
    end = Number.POSITIVE_INFINITY;
    const asked = provider();
    current = asked;
    asked.then(
      ({ expiration }) => {
        if (expiration !== undefined) end = expiration.getTime() - EARLY;
      },
      () => {
        if (current === asked) current = undefined;
      },
    );
    return asked;
  };
}

async function loadChain(): Promise<CredentialProvider> {
  try {
    const { defaultProvider } = await import("@aws-sdk/credential-provider-node");
    return defaultProvider();
  } catch (error) {
    throw missing(error);
  }
}

function missing(cause: unknown): BlockIoError {
  return new BlockIoError("there are no credentials for the bucket", {
    code: "EACCES",
    op: "connect",
    cause,
    hint: "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE to a profile of ~/.aws/config.",
  });
}
