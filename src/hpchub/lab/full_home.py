"""A Lab whose home cannot be written: it runs from the node's disk, opens with a page that says so, and can delete."""

from __future__ import annotations

import html
import json
from pathlib import Path
from urllib.parse import quote

PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>Your home directory is full</title>
<style>body {{ font: 1rem/1.6 sans-serif; max-width: 42rem; margin: 2rem auto; padding: 0 1rem }}
code {{ background: #eee; padding: .1em .3em }} strong {{ color: #b00020 }}</style></head><body>
<h1>Your home directory cannot be written</h1>
<p><strong>{reason}</strong> in <code>{home}</code>. JupyterLab runs in rescue mode: nothing that you save in your home
will be kept, and Dask gets no jobs, until there is room again.</p>
<ol>
<li>Find what is large. In a terminal (<em>File &gt; New &gt; Terminal</em>):
<code>du -xah {home} | sort -rh | head -30</code></li>
<li>Delete files in the file browser on the left, or with <code>rm</code>. They do not go to a trash, but are gone at
once.</li>
<li>Start anew: <em>File &gt; Hub Control Panel &gt; Stop My Server</em>, then start it again.</li>
</ol></body></html>
"""


def prepare(runtime: Path, home: str, reason: str) -> None:
    """Write the page and the server's settings of a rescue into `runtime`, to be found by JUPYTER_CONFIG_PATH."""
    (runtime / "notice").mkdir(mode=0o700)
    page = runtime / "notice" / "Your home directory is full.html"
    page.write_text(PAGE.format(home=html.escape(home), reason=html.escape(reason)), encoding="utf-8")
    url = f"/lab/tree{quote(str(page))}?file-browser-path={quote(home)}"
    settings = {
        "FileContentsManager": {"delete_to_trash": False},  # a trash in a full home takes room, or fails
        "ServerApp": {"default_url": url},
        "LabApp": {"default_url": url},
    }
    (runtime / "etc").mkdir(mode=0o700)
    (runtime / "etc" / "jupyter_server_config.json").write_text(json.dumps(settings), encoding="utf-8")
