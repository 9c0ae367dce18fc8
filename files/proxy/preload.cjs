// Loaded before the proxy, for what it has no option for.
const { readFileSync } = require("node:fs");
const https = require("node:https");
const { isIP } = require("node:net");
const { join } = require("node:path");

// What is changed below, with the number of its parameters. Where one is another, the proxy does not start: answers would
// go out as they are, or certificates be held against the wrong name.
for (const [name, there, parameters] of [
  ["https.createServer", https.createServer, 2],
  ["https.Agent.prototype.addRequest", https.Agent?.prototype?.addRequest, 4],
])
  if (typeof there !== "function" || there.length !== parameters)
    throw new Error(`hpchub's preload.cjs does not fit this node: ${name} is another. Use the node that hpchub came with.`);

// It knows only an environment variable for its token: a unit's environment can be read by any user, a credential
// cannot. What is set here never shows in /proc.
process.env.CONFIGPROXY_AUTH_TOKEN = readFileSync(join(process.env.CREDENTIALS_DIRECTORY, "proxy-token"), "utf8").trim();

// On every answer of a public port, whatever hub or Lab said: HSTS as the site has it, and no version of any software.
const { HPCHUB_HSTS } = process.env;
const { createServer } = https;
https.createServer = (options, answer) =>
  createServer(options, (request, response) => {
    const { writeHead } = response;
    response.writeHead = (...head) => {
      for (const name of ["Server", "X-JupyterHub-Version", "Strict-Transport-Security"]) response.removeHeader(name);
      if (HPCHUB_HSTS) response.setHeader("Strict-Transport-Security", HPCHUB_HSTS);
      return writeHead.apply(response, head);
    };
    return answer(request, response);
  });

// Hub and Labs show a certificate of the node they run on. Left alone, node would hold it against the Host header, which
// is the site's public name, or whatever a browser sent.
const { addRequest } = https.Agent.prototype;
https.Agent.prototype.addRequest = function (request, options, ...rest) {
  const node = options.hostname ?? options.host;
  return addRequest.call(this, request, { ...options, servername: isIP(node) ? "" : node }, ...rest);
};
