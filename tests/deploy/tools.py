"""helm and promtool: what is installed, else made or unpacked into var/bin, without root."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
BIN = ROOT / "var" / "bin"

HELM = "helm.sh/helm/v3/cmd/helm@v3.21.4"


def find(tool: str) -> Path | None:
    """Where a tool is, or None: ours first, then the PATH's."""
    own = BIN / tool
    found = str(own) if own.exists() else shutil.which(tool)
    return Path(found) if found else None


def get_helm() -> str:
    """Build helm with Go where it is missing; why not, or ""."""
    if find("helm"):
        return ""
    if not shutil.which("go"):
        return "helm: neither helm nor go is installed (https://helm.sh, https://go.dev)"
    print(f"deploy: building {HELM} with Go, once, some minutes", flush=True)
    BIN.mkdir(parents=True, exist_ok=True)
    made = subprocess.run(["go", "install", HELM], env=os.environ | {"GOBIN": str(BIN)}, check=False)
    return "" if made.returncode == 0 else f"helm: go install {HELM} failed (its message is above)"


def get_promtool() -> str:
    """Take promtool out of Debian's package `prometheus` where it is missing; why not, or ""."""
    if find("promtool"):
        return ""
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        return "promtool: not installed, and this is not Debian (its package there: prometheus)"
    print("deploy: taking promtool out of Debian's package prometheus", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        # Lists of packages may be missing (containers) or old; only root may renew them.
        for prepare in ([], ["apt-get", "-qq", "update"]):
            if prepare and subprocess.run(prepare, check=False).returncode:
                break
            if not subprocess.run(
                ["apt-get", "-qq", "download", "prometheus"], cwd=folder, stderr=subprocess.DEVNULL, check=False
            ).returncode:
                break
        for package in Path(folder).glob("*.deb"):
            unpacked = Path(folder) / "unpacked"
            subprocess.run(["dpkg-deb", "--extract", str(package), str(unpacked)], check=True)
            BIN.mkdir(parents=True, exist_ok=True)
            shutil.copy2(unpacked / "usr" / "bin" / "promtool", BIN / "promtool")
            return ""
    return "promtool: apt-get could not download Debian's package prometheus"


def get_all() -> list[str]:
    """Both; why one could not be had."""
    missing = [why for why in (get_helm(), get_promtool()) if why]
    for why in missing:
        print(f"deploy: {why}", file=sys.stderr, flush=True)
    return missing
