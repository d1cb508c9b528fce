// nginx and HAProxy, run from deploy/'s own files. What has to differ on this host is put in by exact text that must be there, so
// that a change of those files cannot pass by unseen.

import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { eventually, freePort, start } from "./servers.mjs";

const deployed = file => readFileSync(new URL(`../../deploy/${file}`, import.meta.url), "utf8");

// Each text replaced wherever it stands; it must stand there.
function substitute(text, replacements) {
  for (const [from, to] of replacements) {
    if (!text.includes(from)) throw new Error(`the file of deploy/ has no longer: ${from}`);
    text = text.replaceAll(from, to);
  }
  return text;
}

const addresses = servers => servers.map(({ port }, at) => [`10.0.0.${at + 1}:8080`, `127.0.0.1:${port}`]);

const accepts = port => new Promise(resolve => {
  const socket = connect(port, "127.0.0.1", () => resolve(socket.destroy() && true)).on("error", () => resolve(false));
});

// In front of three servers, of which the third is the backup; `also` changes more of the file.
class Proxy {
  static async start(servers, also = []) {
    const proxy = new this();
    proxy.port = await freePort();
    proxy.folder = mkdtempSync(join(tmpdir(), "megasock-proxies-"));
    proxy.file = join(proxy.folder, "config");
    const text = substitute(deployed(this.deployed), [...addresses(servers), ...proxy.places(), ...also]);
    writeFileSync(proxy.file, text);
    // A killed nginx would leave its workers behind.
    proxy.program = start("SIGTERM", ...proxy.command());
    const ended = proxy.program.exited.then(() => { throw new Error(`${this.title}: ${proxy.program.said.join("\n")}`); });
    ended.catch(() => {});
    await Promise.race([ended, eventually(`${this.title} listens`, () => accepts(proxy.port))]);
    return proxy;
  }

  get url() { return `ws://127.0.0.1:${this.port}/ws`; }

  // Without waiting for tunnels.
  async stop() {
    this.program.child.kill("SIGTERM");
    await this.program.exited;
    rmSync(this.folder, { recursive: true });
  }
}

export class Nginx extends Proxy {
  static title = "nginx";
  static deployed = "nginx/nginx.conf";
  static version() { return execFileSync("sh", ["-c", "nginx -v 2>&1"], { encoding: "utf8" }).match(/nginx\/([\d.]+)/)[1]; }
  // With the lines for TLS that its file has as comments.
  static withTls(port, { certificate, key }) {
    return [
      ["# listen 443 ssl", `listen 127.0.0.1:${port} ssl`],
      ["# ssl_certificate /etc/ssl/chat.example.org.pem", `ssl_certificate ${certificate}`],
      ["# ssl_certificate_key /etc/ssl/chat.example.org.key", `ssl_certificate_key ${key}`],
      ["# ssl_session_cache", "ssl_session_cache"],
    ];
  }

  // What it has to be told in the servers' configuration.
  static trusted = ["--trusted-proxies", "127.0.0.1"];
  static silence = seconds => [["proxy_read_timeout 90s;", `proxy_read_timeout ${seconds}s;`]];
  // The changes that its file names for the other ways to choose a server.
  static #noBackup = [" backup;    # only while all others are down", ";"];
  static #ordinary = ["        least_conn;  ", "        # least_conn;"];
  static byAddress = [Nginx.#ordinary, ["# ip_hash;", "ip_hash;"], Nginx.#noBackup];
  static byToken = [Nginx.#ordinary, ["# hash $sticky consistent;", "hash $sticky consistent;"], Nginx.#noBackup];

  places() {
    return [
      ["listen 80 ", `listen 127.0.0.1:${this.port} `],
      ["/run/nginx.pid", `${this.folder}/pid`],
      ["/var/log/nginx", this.folder],
      // Bodies have places of their own, which nginx makes when it starts, whether one comes or not.
      ["http {\n", `http {\n${["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(of => `    ${of}_temp_path ${this.folder}/${of};\n`).join("")}`],
      ["worker_connections 65536", "worker_connections 1024"],
      ["worker_rlimit_nofile 66560", "worker_rlimit_nofile 2048"],
      // At once, so that the log can be read when the clients have gone.
      [" buffer=64k flush=5s", ""],
    ];
  }

  command() { return ["nginx", "-p", this.folder, "-c", this.file, "-g", "daemon off;"]; }

  reload() { this.program.child.kill("SIGHUP"); }

  #errors() { return readFileSync(join(this.folder, "error.log"), "utf8"); }

  #read = 0;
  forget() { this.#read = this.#errors().length; }

  // Whether it has taken this server out since it was told to forget: after max_fails it says so, in a line that names the address.
  async isOut({ port }) {
    return this.#errors().slice(this.#read).split("\n").some(line => line.includes("temporarily disabled") && line.includes(`127.0.0.1:${port}/`));
  }

  log() { return readFileSync(join(this.folder, "access.log"), "utf8"); }
}

export class Haproxy extends Proxy {
  static title = "haproxy";
  static deployed = "haproxy/haproxy.cfg";
  static version() { return execFileSync("haproxy", ["-v"], { encoding: "utf8" }).match(/version ([\d.]+)/)[1]; }
  static trusted = ["--trusted-proxies", "127.0.0.1", "--proxy-protocol", "on"];
  static silence = seconds => [["timeout tunnel 90s", `timeout tunnel ${seconds}s`]];
  static withTls(port, { both }) {
    return [["# bind :443 ssl crt /etc/ssl/chat.example.org.pem", `bind 127.0.0.1:${port} ssl crt ${both}`]];
  }

  static #noBackup = [" backup", ""];
  static #ordinary = ["    balance leastconn ", "    # balance leastconn "];
  static byAddress = [Haproxy.#ordinary, ["# balance source ", "balance source "], Haproxy.#noBackup];
  static byToken = [Haproxy.#ordinary, ["# balance hash var(txn.sticky) ", "balance hash var(txn.sticky) "], Haproxy.#noBackup];
  // The other way its file names: the header instead of PROXY.
  static byHeader = [[" send-proxy-v2", " "]];

  places() {
    // Who is not root keeps his own; and there is no such user where nothing was installed.
    const keeps = process.getuid() === 0 && /^haproxy:/m.test(readFileSync("/etc/passwd", "utf8"));
    const users = keeps ? [] : [["    user haproxy\n", ""], ["    group haproxy\n", ""]];
    return [
      ["bind :80", `bind 127.0.0.1:${this.port}`],
      ["/run/haproxy/admin.sock", `${this.folder}/admin.sock`],
      ["log /dev/log local0", "log stdout format raw local0"],
      ["maxconn 200000", "maxconn 2000"],
      ...users,
    ];
  }

  command() { return ["haproxy", "-db", "-f", this.file]; }

  #ask(command) {
    return new Promise((resolve, reject) => {
      let answer = "";
      const socket = connect(join(this.folder, "admin.sock"), () => socket.write(`${command}\n`));
      socket.on("data", bytes => { answer += bytes; }).on("end", () => resolve(answer)).on("error", reject);
    });
  }

  // Of the stats socket's table, what stands in this column for the backend's server.
  async #column(name, { id }) {
    const [head, ...rows] = (await this.#ask("show stat")).replace(/^# /, "").split("\n").map(line => line.split(","));
    return rows.find(([backend, server]) => backend === "websockets" && server === id)[head.indexOf(name)];
  }

  // Whether all checks count for it. HAProxy begins with every server up but on trial: one wrong answer would do.
  async isSettled(server) {
    const [health, rise, fall] = await Promise.all(["health", "rise", "fall"].map(name => this.#column(`check_${name}`, server)));
    return Number(health) === Number(rise) + Number(fall) - 1;
  }

  forget() {}

  async isOut(server) { return (await this.#column("status", server)).startsWith("DOWN"); }

  log() { return this.program.said.join("\n"); }
}
