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
const { HPCHUB_HSTS, HPCHUB_BASE_PATH = "/", HPCHUB_ONE_ORIGIN } = process.env;
const { createServer } = https;
https.createServer = (options, answer) => {
  const server = createServer(options, (request, response) => {
    const { writeHead } = response;
    const lab = labOf(request.url);
    response.writeHead = (...head) => {
      if (lab) confine(response, lab);
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

// The path of the Lab that answers, "" for the hub. The path is read as configurable-http-proxy reads it to find a route.
function labOf(url) {
  try {
    const path = decodeURIComponent(new URL(url, "http://example.com").pathname).replace(/^\/+/, "/");
    if (!path.startsWith(`${HPCHUB_BASE_PATH}user/`)) return "";
    const [name] = path.slice(`${HPCHUB_BASE_PATH}user/`.length).split("/");
    return `${HPCHUB_BASE_PATH}user/${name}/`;
  } catch {
    return "";
  }
}

// What a user's own programs answer holds for that user's path alone: no service worker of a wider scope, no cookie of
// the hub's or for another path or host, and nobody's cookies and storage are cleared.
const HUB_COOKIES = /^(__host-|__secure-)?jupyterhub-(session-id|hub-login)$/i;
function confine(response, lab) {
  for (const name of ["Service-Worker-Allowed", "Clear-Site-Data"]) response.removeHeader(name);
  const cookies = [response.getHeader("Set-Cookie") ?? []].flat();
  const kept = cookies.filter((cookie) => {
    const [pair, ...attributes] = String(cookie).split(";");
    const said = attributes.map((attribute) => attribute.trim().split("="));
    const value = (wanted) => said.filter(([name]) => name.toLowerCase() === wanted).at(-1)?.[1]?.trim();
    if (HUB_COOKIES.test(pair.split("=")[0].trim()) || value("domain")) return false;
    const path = value("path");
    return !HPCHUB_ONE_ORIGIN || !path?.startsWith("/") || `${path.replace(/\/*$/, "")}/`.startsWith(lab);
  });
  if (kept.length < cookies.length) {
    response.removeHeader("Set-Cookie");
    if (kept.length) response.setHeader("Set-Cookie", kept);
  }
}

// Hub and Labs show a certificate of the node they run on. Left alone, node would hold it against the Host header, which
// is the site's public name, or whatever a browser sent.
const { addRequest } = https.Agent.prototype;
https.Agent.prototype.addRequest = function (request, options, ...rest) {
  const node = options.hostname ?? options.host;
  return addRequest.call(this, request, { ...options, servername: isIP(node) ? "" : node }, ...rest);
};
