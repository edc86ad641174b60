"""After `cmake --install`, a ten-line program of another project finds duo, links duo::duo and generates text.

usage: install_consumer_test.py CMAKE BUILD_DIR CXX_COMPILER BUILD_TYPE
"""

import os
import shutil
import subprocess
import sys
import tempfile

import rules


def run(command, **options):
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, **options)
    if result.returncode != 0:
        print(result.stdout)
    return result


def expect(condition, what):
    if not condition:
        rules.finish([what], "the installed library")


def main(cmake, build_dir, compiler, build_type):
    with tempfile.TemporaryDirectory() as work:
        prefix = os.path.join(work, "prefix")
        installed = run([cmake, "--install", build_dir, "--prefix", prefix])
        expect(installed.returncode == 0, "cmake --install failed")

        # A copy outside the source tree, so that CMake can find only the installation.
        source = os.path.join(work, "consumer")
        shutil.copytree(os.path.join(rules.ROOT, "tests", "consumer"), source)
        configure = [cmake, "-S", source, "-B", os.path.join(work, "build"), "-G", "Ninja",
                     f"-DCMAKE_PREFIX_PATH={prefix}", f"-DCMAKE_CXX_COMPILER={compiler}",
                     f"-DCMAKE_BUILD_TYPE={build_type}"]
        other_version = subprocess.run(configure + ["-DDUO_WANTED_VERSION=99"], capture_output=True, check=False)
        expect(other_version.returncode != 0, "find_package(duo 99) found this version")
        expect(run(configure + ["-DDUO_WANTED_VERSION=0.1"]).returncode == 0, "the consumer does not configure")
        expect(run([cmake, "--build", os.path.join(work, "build")]).returncode == 0, "the consumer does not build")

        model = os.path.join(prefix, "share", "duo", "demo")
        question = ("The secret code of Anna is 48213.\n\n"
                    "Based on the content of the book, what is the secret code of Anna?\nAnswer: ")
        answer = run([os.path.join(work, "build", "consumer"), model, question])
        expect(answer.returncode == 0, "the consumer fails")
        expect(answer.stdout.strip().startswith("48213"), f"the consumer says {answer.stdout!r}, expected 48213")

        duo = os.path.join(prefix, "bin", "duo")
        if os.path.exists(duo):
            version = run([duo, "--version"])
            expect(version.returncode == 0, "the installed duo does not run")
    rules.finish([], "the installed library")


if __name__ == "__main__":
    main(*sys.argv[1:])
