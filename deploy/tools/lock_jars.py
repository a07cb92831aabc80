"""Write stream/broker/jars.sha256: every jar that the embedded Kafka runs on, by coordinate and SHA-256.

Called by `make lock`, with the network. The dependency graph is resolved here, once; whoever runs the broker fetches
exactly this list and nothing else.
"""

import hashlib
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from jgo.maven import Artifact, MavenContext
from jgo.parse import Endpoint

# 4.4.0 is left out: its kafka-tools-api was not published when this was pinned.
KAFKA_VERSION = "4.3.1"
MANIFEST = Path(__file__).resolve().parent.parent.parent / "stream" / "broker" / "jars.sha256"
HEADER = """\
# The jars of the embedded broker: SHA-256 and Maven coordinate, one a line, in class path order.
# Written by `make lock`; stream/broker/jars.py fetches and verifies them.
"""


def coordinate(artifact: Artifact) -> str:
    return f"{artifact.groupId}:{artifact.artifactId}:{artifact.version}"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        maven = MavenContext(repo_cache=Path(folder), timeout=60)
        endpoint = Endpoint.parse(f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}").coordinates
        inputs, transitive = maven.resolver.resolve(
            [maven.create_dependency(replace(one, scope="compile")) for one in endpoint]
        )
        artifacts = [dependency.artifact for dependency in (*inputs, *transitive)]
        # Kafka logs through slf4j 1.7 and ships log4j 2 as its binding only in the release archive. Added by hand, as
        # a second endpoint its parent pom would take over the versions of everything else.
        log4j = next(artifact.version for artifact in artifacts if artifact.artifactId == "log4j-core")
        binding = maven.project("org.apache.logging.log4j", "log4j-slf4j-impl").at_version(log4j)
        artifacts.append(binding.artifact())
        with ThreadPoolExecutor(8) as pool:
            paths = list(pool.map(Artifact.resolve, artifacts))
        lines = [
            f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {coordinate(artifact)}\n"
            for artifact, path in zip(artifacts, paths, strict=True)
        ]
    MANIFEST.write_text(HEADER + "".join(lines))
    sys.stdout.write(f"{MANIFEST.name}: {len(lines)} jars of Kafka {KAFKA_VERSION}\n")


if __name__ == "__main__":
    main()
