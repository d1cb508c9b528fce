// What changes something, each behind a dialog that says what: the key, a disconnect, a drain.

// Opens one of the dialogs and runs `act` when it is confirmed. It stays open, with the reason, when that fails.
function openDialog(id, act) {
  const dialog = at(id);
  const form = dialog.querySelector("form");
  const problem = dialog.querySelector(".problem");
  const confirm = form.querySelector(".end button:last-child");
  show(problem, "");
  form.onsubmit = async event => {
    event.preventDefault();
    if (confirm.disabled) return;
    confirm.disabled = true;
    try {
      await act();
      dialog.close();
    } catch (error) {
      show(problem, faultOf(error));
    } finally {
      confirm.disabled = false;
    }
  };
  dialog.querySelector(".cancel").onclick = () => dialog.close();
  if (!dialog.open) dialog.showModal();
}

// Said above the figures for a while, and read aloud.
const NOTICE_MS = 30_000;
let noticeTimer = 0;

function notice(text) {
  clearTimeout(noticeTimer);
  noticeTimer = setTimeout(() => show(at("notice"), ""), NOTICE_MS);
  show(at("notice"), text);
}

// As the server demands of a key. A header could not even carry another, such as one with a quotation mark that was made curly.
const KEY_FORM = /^[!-~]{32,}$/;

function askKey(words = "") {
  at("key").value = "";
  openDialog("key-dialog", async () => {
    const text = at("key").value.trim();
    if (!KEY_FORM.test(text)) throw new Fault("This is no key: those have 32 characters or more, all of them ASCII letters, digits and signs.");
    key.use(text);
    unlock();
  });
  show(at("key-dialog").querySelector(".problem"), words);
}

// `target` is a user or a connection, as the API names it.
function askDisconnect(target, connections) {
  const [kind, name] = target.userId === undefined ? ["connection", target.connectionId] : ["user", target.userId];
  at("disconnect-title").replaceChildren("Disconnect ", kind, " ", make("code", {}, name));
  show(at("disconnect-words"), kind === "user" ? `${several(connections, "connection")} when last looked up; all there are now will be closed.`
    : "This one connection will be closed.");
  openDialog("disconnect-dialog", async () => {
    const reason = at("reason").value;
    const code = Number(at("code").value);
    const { connections } = await tell("/api/disconnect", { ...target, code, reason: reason || undefined });
    notice(kind === "user" ? `${several(connections, "connection")} of user ${name} closed with ${code}.`
      : `Connection ${name} closed with ${code}.`);
    lookUp(kind, name);
  });
}

function askDrain() {
  const name = at("server").textContent;
  const confirm = at("drain-dialog").querySelector(".danger");
  show(at("drain-expected"), name);
  at("drain-name").value = "";
  confirm.disabled = true;
  at("drain-name").oninput = () => { confirm.disabled = at("drain-name").value !== name; };
  openDialog("drain-dialog", async () => {
    const within = at("within").value;
    const { clients, closes_over_ms, returns_after_ms, returns_over_ms } = await tell("/api/drain", within ? { timeout: `${within}s` } : {});
    const [closed, back] = [closes_over_ms, returns_after_ms + returns_over_ms].map(ms => asTime(Math.ceil(ms / 1000)));
    notice(`The drain has begun: ${several(clients, "client")}, closed within ${closed}, asked to come back within ${back}.`);
    // With few clients it may be over before the next beat.
    state.wasDraining = true;
    beat();
  });
}

function setUpDialogs() {
  at("drain").addEventListener("click", askDrain);
  at("enter-key").addEventListener("click", () => askKey());
  at("forget-key").addEventListener("click", () => {
    key.forget();
    notice("The key is forgotten.");
    lock();
  });
}
