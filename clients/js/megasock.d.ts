/** The megasock client: one connection that is made again whenever it is lost, and what hangs on it. */

/** What an ending means for the next attempt. */
export type ClosingRule = "stop" | "token" | "slow" | "retry";
export const CLOSE_CODES: Readonly<Record<number, ClosingRule>>;
export const DEFAULTS: Readonly<Required<Omit<Options, "getToken" | "WebSocket">>>;

export type State = "connecting" | "open" | "waiting" | "closed";

export interface Clock {
  /** Milliseconds from any moment on; never backwards. */
  now(): number;
  setTimeout(run: () => void, delayMs: number): unknown;
  clearTimeout(timer: any): void;
}

export interface Options {
  /** Answers the token to connect with, or nothing to be anonymous; `expiring` when the connection's own is about to end. */
  getToken?: (why: { expiring: boolean }) => string | null | undefined | Promise<string | null | undefined>;
  /** Where the token goes: a subprotocol, or `?token=`, which intermediaries may log. */
  tokenIn?: "protocol" | "query";
  backoffBaseMs?: number;
  backoffCapMs?: number;
  /** How long a connection has to last for the schedule to begin anew. */
  stableMs?: number;
  /** Retries in a row, without a stable connection between them, after which the client is closed. */
  retriesMax?: number;
  /** For token, handshake and welcome together. */
  connectTimeoutMs?: number;
  /** Silence beyond the server's `pingInterval` after which the client asks whether the server is still there. */
  pingSlackMs?: number;
  pongTimeoutMs?: number;
  /** Commands that may wait for a connection. */
  queueMax?: number;
  /**
   * Commands sent at once after a reconnect, and the pause before the next. At least a quarter of `burstMax` more than were given
   * since the burst before, so that the backlog ends.
   */
  burstMax?: number;
  burstIntervalMs?: number;
  /** Failed attempts after which the routing token is dropped. */
  routingRetriesMax?: number;
  /** Rules for close codes of the application's own, or instead of those of `CLOSE_CODES`; 1000 always stops. */
  closeCodes?: Record<number, ClosingRule>;
  /** The WebSocket to use, where there is no global one. */
  WebSocket?: new (url: string, protocols: string[]) => any;
  random?: () => number;
  clock?: Clock;
}

export class MegasockError extends Error {
  constructor(code: string, message: string);
  readonly code: string;
}
/** The server refused; `code` is one of docs/channels.md. */
export class ServerError extends MegasockError {}
/** The connection ended before the reply: done or not. `code` is "connection_lost". */
export class ConnectionLostError extends MegasockError {
  constructor(type: string);
}
/** Too many commands wait for a connection. `code` is "queue_full". */
export class QueueFullError extends MegasockError {
  constructor(type: string, max: number);
}
/** The client does not come back by itself. `code` is "closed". */
export class ClosedError extends MegasockError {
  constructor(reason: string);
}

export class Backoff {
  constructor(options?: { baseMs?: number; capMs?: number; stableMs?: number; retriesMax?: number; random?: () => number });
  retries: number;
  /** The delay before the next attempt, or undefined when there is to be none. */
  next(ending?: { lastedMs?: number; hintMs?: number; slow?: boolean }): number | undefined;
}

interface Emitter<Events> {
  on<Name extends keyof Events>(name: Name, listener: (value: Events[Name]) => void): this;
  once<Name extends keyof Events>(name: Name, listener: (value: Events[Name]) => void): this;
  off<Name extends keyof Events>(name: Name, listener: (value: Events[Name]) => void): this;
}

export interface Position {
  epoch: string;
  lastId: number;
}

export interface Message<Data = unknown> {
  id: number;
  data: Data;
  /** Absent where the sender is anonymous or the server. */
  userId?: string;
  /** The server's clock, milliseconds since 1970. */
  ts: number;
  /** In rooms. */
  serverId?: string;
}

export interface Gap {
  /** The messages lost; absent where their numbers are not known. */
  from?: number;
  to?: number;
  reason: "slow_consumer" | "overload" | "not_recovered" | (string & {});
}

export interface SubscriptionEvents<Data> {
  message: Message<Data>;
  gap: Gap;
  /** Confirmed, after every message that was missed. `again`: it went on from where it had been, or meant to. */
  subscribed: { recovered: boolean; again: boolean; position: Position | null; members?: number };
  presence: { joined: string[]; left: string[] };
  /** Refused; it has ended. */
  error: ServerError;
}

export interface PresencePage {
  users: { userId: string; connections: number }[];
  total: number;
}

export interface History<Data = unknown> {
  epoch: string;
  lastId: number;
  messages: Message<Data>[];
}

export interface PresenceOptions {
  limit?: number;
  after?: string;
}

export interface HistoryOptions {
  limit?: number;
  sinceId?: number;
}

export interface PublishOptions {
  /** Whether this connection gets the message too; true. */
  echo?: boolean;
}

export interface Subscription<Data = unknown> extends Emitter<SubscriptionEvents<Data>> {}
export class Subscription<Data = unknown> {
  private constructor();
  readonly kind: "channel" | "room";
  readonly name: string;
  readonly active: boolean;
  readonly epoch: string | undefined;
  readonly lastId: number;
  readonly position: Position | null;
  readonly ready: Promise<this>;
  publish(data: Data, options?: PublishOptions): Promise<{ id?: number }>;
  presence(options?: PresenceOptions): Promise<PresencePage>;
  history(options?: HistoryOptions): Promise<History<Data>>;
  unsubscribe(): Promise<void>;
  leave(): Promise<void>;
}

export interface Welcome {
  connectionId: string;
  userId?: string;
  serverId: string;
  pingInterval: number;
  routingToken?: string;
}

export interface StateChange {
  state: State;
  previous: State;
  /** When open. */
  welcome?: Welcome;
  /** When waiting or closed: how the connection ended. */
  code?: number;
  reason?: string;
  error?: Error;
  /** When waiting: until the next attempt. */
  delayMs?: number;
}

export interface ClientEvents {
  state: StateChange;
  direct: { fromUserId?: string | null; data: unknown; ts: number };
  shutdown: { reason: string; reconnectDelayMs?: number };
  expiring: { expiresIn: number };
  error: Error;
}

export type Topic = { channel: string } | { room: string };

export interface Client extends Emitter<ClientEvents> {}
export class Client {
  constructor(url: string | URL, options?: Options);
  readonly state: State;
  readonly welcome: Welcome | null;
  open(): this;
  opened(): Promise<Welcome>;
  close(): void;
  subscribe<Data = unknown>(channel: string, options?: { since?: Position }): Subscription<Data>;
  join<Data = unknown>(room: string, options?: { since?: Position }): Subscription<Data>;
  subscription<Data = unknown>(channel: string): Subscription<Data> | undefined;
  room<Data = unknown>(room: string): Subscription<Data> | undefined;
  unsubscribe(channel: string): Promise<void>;
  leave(room: string): Promise<void>;
  leaveAll(): Promise<string[]>;
  publish(channel: string, data: unknown, options?: PublishOptions): Promise<{ id: number }>;
  send(room: string, payload: unknown, options?: PublishOptions): Promise<void>;
  direct(userId: string, payload: unknown): Promise<{ connections: number }>;
  presence(topic: Topic, options?: PresenceOptions): Promise<PresencePage>;
  history<Data = unknown>(topic: Topic, options?: HistoryOptions): Promise<History<Data>>;
  command(type: string, fields?: Record<string, unknown>): Promise<Record<string, unknown>>;
}

export function connect(url: string | URL, options?: Options): Client;
