// The beat: once a second the figures; what is said when they do not come, and when they come again.

const BEAT_MS = 1000;
const PAUSE_MS_MIN = 100;

const state = {
  answeredMs: 0,
  missedSinceMs: null,
  wasDraining: false,
  isLocked: false,
  timer: 0,
  // The beat that is under way or waited for. What an earlier one brings is too late.
  beats: 0,
};

async function beat() {
  clearTimeout(state.timer);
  const beats = ++state.beats;
  const begun = Date.now();
  try {
    const seconds = secondsMissing(serverNow());
    const [info, series] = await Promise.all([ask("/api/info"), ask("/api/series", { seconds })]);
    if (beats !== state.beats) return;
    arrived(info, series);
    refreshChannels().catch(error => show(at("channels-words"), faultOf(error)));
  } catch (error) {
    if (beats === state.beats) missed(error);
  } finally {
    if (beats === state.beats) state.timer = setTimeout(beat, Math.max(PAUSE_MS_MIN, BEAT_MS - (Date.now() - begun)));
  }
}

function arrived(info, series) {
  if (state.missedSinceMs) notice(`The server answers again, after ${asTime((Date.now() - state.missedSinceMs) / 1000)}.`);
  Object.assign(state, { answeredMs: Date.now(), missedSinceMs: null, wasDraining: Boolean(info.drain) });
  document.body.classList.remove("stale");
  at("outage").hidden = true;
  at("forget-key").hidden = !key.get();
  show(at("pulse"), `live · ${asClock(info.now_ms)}`);
  remember(series);
  showNow(info);
  drawPlots();
}

function missed(error) {
  const words = faultOf(error);
  if (error.status === 401) return lock();
  state.missedSinceMs ??= Date.now();
  document.body.classList.add("stale");
  setState("away", error.status ? "Refused" : "No answer");
  at("outage").hidden = false;
  // The key may be why.
  at("forget-key").hidden = !key.get();
  show(at("outage"), error.status ? `The server refuses: ${words}` : outageWords());
  show(at("pulse"), state.answeredMs ? `figures of ${asClock(state.answeredMs)}` : "no figures yet");
  document.title = "no answer · megasock";
}

function outageWords() {
  const since = `The server has not answered since ${asClock(state.missedSinceMs)}.`;
  if (state.wasDraining) return `${since} It was draining: its process has probably ended.`;
  return `${since} Asking again every second${state.answeredMs ? "; the figures below are old" : ""}.`;
}

// No more questions until there is a key.
function lock() {
  clearTimeout(state.timer);
  state.beats++;
  state.isLocked = true;
  const wasRefused = Boolean(key.get());
  key.forget();
  document.body.classList.add("stale");
  setState("locked", "Key needed");
  show(at("pulse"), "");
  at("outage").hidden = true;
  at("forget-key").hidden = true;
  at("enter-key").hidden = false;
  askKey(wasRefused ? "The server does not accept this key." : "");
}

function unlock() {
  state.isLocked = false;
  at("enter-key").hidden = true;
  beat();
}

plots = CURVES.map(makePlot);
setUpLooks();
setUpDialogs();
beat();
// A page that is not looked at is woken seldom; when it is looked at again its figures are old.
document.addEventListener("visibilitychange", () => {
  if (!document.hidden && !state.isLocked) beat();
});
