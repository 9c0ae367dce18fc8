// Loaded before the proxy, for what it has no option for.
const { readFileSync } = require("node:fs");
const https = require("node:https");
const { isIP } = require("node:net");
const { join } = require("node:path");

// It knows only an environment variable for its token: a unit's environment can be read by any user, a credential
// cannot. What is set here never shows in /proc.
process.env.CONFIGPROXY_AUTH_TOKEN = readFileSync(join(process.env.CREDENTIALS_DIRECTORY, "proxy-token"), "utf8").trim();

// On every answer of a public port, whatever hub or Lab said: HSTS as the site has it, and no version of any software.
const { HPCHUB_HSTS } = process.env;
const { createServer } = https;
https.createServer = (options, answer) => {
  const server = createServer(options, (request, response) => {
    const { writeHead } = response;
    response.writeHead = (...head) => {
      for (const name of ["Server", "X-JupyterHub-Version", "Strict-Transport-Security"]) response.removeHeader(name);
      if (HPCHUB_HSTS) response.setHeader("Strict-Transport-Security", HPCHUB_HSTS);
      return writeHead.apply(response, head);
    };
    return answer(request, response);
  });
  for (const event of ["request", "upgrade"]) server.prependListener(event, forget);
  return server;
};

// What a browser says about addresses, hosts and schemes is not true because it says so. The proxy then writes its own
// X-Forwarded-For. The same list stands in hpchub.hub.peers.
const FORWARDING =
  /^(x-forwarded-.*|forwarded|via|x-real-ip|x-scheme|x-url-scheme|x-proxyscheme|front-end-https|x-original-.*|x-rewrite-url|(true|x|x-cluster|cf|fastly)-(client|connecting)-ip)$/;
function forget(request) {
  for (const name of Object.keys(request.headers)) if (FORWARDING.test(name)) delete request.headers[name];
}

// Hub and Labs show a certificate of the node they run on. Left alone, node would hold it against the Host header, which
// is the site's public name, or whatever a browser sent.
const { addRequest } = https.Agent.prototype;
https.Agent.prototype.addRequest = function (request, options, ...rest) {
  const node = options.hostname ?? options.host;
  return addRequest.call(this, request, { ...options, servername: isIP(node) ? "" : node }, ...rest);
};
