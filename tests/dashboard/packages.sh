# Installs what drives the browser into `place`, below target/, and says which options Node needs. Sourced.

# shellcheck disable=SC2154 # root is set by who sources this
place=$root/target/dashboard
packages="playwright-core@1.56.1 axe-core@4.11.0"

for tool in node npm chromium; do
    command -v "$tool" >/dev/null || { echo "dashboard: $tool is missing; scripts/test installs it" >&2; exit 1; }
done
mkdir -p "$place"
# What the folder holds is written beside it, so that another version is installed over an old one.
if [[ $(cat "$place/installed" 2>/dev/null) != "$packages" ]]; then
    # shellcheck disable=SC2086 # a list of packages
    npm install --loglevel=error --no-audit --no-fund --prefix "$place" $packages >/dev/null ||
        { echo "dashboard: npm install failed" >&2; exit 1; }
    echo "$packages" >"$place/installed"
fi
export CLIENT_MODULES=$place

# Before Node 22 the global WebSocket has to be asked for.
flags=(--no-warnings)
node -e 'process.exit(typeof WebSocket === "function" ? 0 : 1)' || flags+=(--experimental-websocket)
