// Numbers as people read them: each with its unit, none with more digits than it is good for.

const THIN = "\u202f";
const UNKNOWN = "–";
const BYTE_UNITS = ["B", "KiB", "MiB", "GiB", "TiB"];
const COUNT_UNITS = ["", "k", "M", "G"];

const isKnown = value => typeof value === "number" && Number.isFinite(value);

// Three digits that matter: 9.87, 98.7, 987.
const brief = value => value.toLocaleString("en", { maximumFractionDigits: value >= 100 ? 0 : value >= 10 ? 1 : 2 });

// A value in the largest of these units it has at least one of.
function inUnits(value, units, step) {
  let at = 0;
  while (Math.abs(value) >= step && at < units.length - 1) {
    value /= step;
    at++;
  }
  return `${brief(value)}${units[at] ? THIN + units[at] : ""}`;
}

const orUnknown = format => value => (isKnown(value) ? format(value) : UNKNOWN);

const asCount = orUnknown(value => Math.round(value).toLocaleString("en"));
const asShort = orUnknown(value => inUnits(value, COUNT_UNITS, 1000));
const asBytes = orUnknown(value => inUnits(value, BYTE_UNITS, 1024));
const asRate = orUnknown(value => `${value < 10 && value > 0 ? value.toFixed(1) : asCount(value)}/s`);
const asShortRate = orUnknown(value => `${asShort(value)}/s`);
const asByteRate = orUnknown(value => `${asBytes(value)}/s`);
const asPart = orUnknown(part => `${part > 0 && part < 0.1 ? (part * 100).toFixed(1) : Math.round(part * 100)}${THIN}%`);
const asGrowth = orUnknown(value => (value > 0 ? `+${asCount(value)}` : "0"));

const asMicroseconds = orUnknown(us => {
  if (us < 1000) return `${Math.round(us)}${THIN}µs`;
  return us < 1e6 ? `${brief(us / 1e3)}${THIN}ms` : `${brief(us / 1e6)}${THIN}s`;
});

// The two largest units of a time: 3 d 4 h.
const asTime = orUnknown(seconds => {
  let left = Math.max(0, Math.round(seconds));
  const parts = [];
  for (const [unit, size] of [["d", 86_400], ["h", 3600], ["min", 60], ["s", 1]]) {
    if (left >= size || (unit === "s" && parts.length === 0)) parts.push(`${Math.floor(left / size)}${THIN}${unit}`);
    left %= size;
  }
  return parts.slice(0, 2).join(" ");
});

const asClock = ms => new Date(ms).toLocaleTimeString("en-GB");
const asMoment = value => (value == null ? UNKNOWN : new Date(value).toLocaleString("en-GB"));

// The server's clock may differ from this one's; whatever it dates is held to its own.
let skewMs = 0;
const serverNow = () => Date.now() + skewMs;
const ago = value => (value == null ? UNKNOWN : `${asTime((serverNow() - new Date(value)) / 1000)} ago`);

// One thing or several: "1 client", "2 clients".
const several = (number, one) => `${asCount(number)} ${one}${number === 1 ? "" : "s"}`;
