// Loaded before the proxy, which knows only an environment variable for its token: a unit's environment can be read by
// any user, a credential cannot. What is set here never shows in /proc.
const { readFileSync } = require("node:fs");
const { join } = require("node:path");

process.env.CONFIGPROXY_AUTH_TOKEN = readFileSync(join(process.env.CREDENTIALS_DIRECTORY, "proxy-token"), "utf8").trim();
