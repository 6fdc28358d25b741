"""Tests of `himl runs attach` on the double of Azure ML: waiting for services, showing and opening them, and ssh
through a WebSocket to a real sshd.
"""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from himl_cli.core.ports import free_port
from tests.azureml_double.faults import Status
from tests.azureml_double.seeding import StagedWorkspace
from tests.azureml_double.state import Right, Run
from tests.conftest import lacking
from tests.support.azure import azure_project as azure_project
from tests.support.azure import write_program
from tests.support.running import Himl, until, write_files
from tests.support.runs import RecordedRuns, posix

WAITS = "import time\ntime.sleep(600)\n"
SUBMIT = ("submit", "train.py", "--cluster", "cpu-cluster", "-q")
BIG = bytes(range(256)) * 8192  # 2 MiB, which takes many frames


@pytest.fixture
def lab(azure_project: StagedWorkspace, project: Path) -> StagedWorkspace:
    write_files(project, {"train.py": WAITS})
    return azure_project


def submitted(himl: Himl, lab: StagedWorkspace, *options: str) -> Run:
    run_id = himl.ok(*SUBMIT, *options).stdout.strip()
    return lab.wait_for(run_id, "Running")


def test_services_are_waited_for_and_shown(himl: Himl, lab: StagedWorkspace) -> None:
    with lab.run_jobs(hold=True, service_status="Starting") as held:
        sent = himl.ok(*SUBMIT[:-1], "--vscode", "--jupyter")
        run = lab.wait_for(sent.stdout.split()[0], "Queued")
        assert f"To connect to vscode, jupyterlab: himl runs attach {run.run_id}\n" in sent.stderr
        with himl.start("runs", "attach", run.run_id, "--json") as waiting:
            assert waiting.stderr is not None
            assert waiting.stderr.readline().decode() == f"Run '{run.run_id}' is queued. Its services start with it.\n"
            held.release()
            assert waiting.stderr.readline() == b"Waiting for vscode (starting), jupyterlab (starting).\n"
            run.services[0]["vscode"]["status"] = "Running"
            assert waiting.stderr.readline() == b"Waiting for jupyterlab (starting).\n"
            run.services[0]["jupyterlab"] |= {
                "status": "Failed",
                "error": {"error": {"message": "jupyter-lab: not found"}},
            }
            printed, said = waiting.communicate(timeout=100)
        assert (waiting.returncode, said) == (0, b"jupyterlab failed: jupyter-lab: not found\n")
        shown = himl.ok("runs", "attach", "--service", "vscode", "--json").json()
        (code,) = shown
        assert shown == [
            {
                "name": "vscode",
                "type": "VSCode",
                "node": 0,
                "status": "Running",
                "url": code["url"],
                "port": None,
                "error": "",
                "proxy": "",
            }
        ]
        assert code["url"] == run.services[0]["vscode"]["endpoint"].replace("<nodeIndex>", "0")
        assert (
            himl.ok("runs", "attach", "--service", "vscode").stdout
            == f"name\ttype\tstatus\taddress\nvscode\tVSCode\tRunning\t{code['url']}\n"
        )
        assert himl.ok("runs", "attach", "--service", "vscode", "-q").stdout == f"{code['url']}\n"
        assert b'"error": "jupyter-lab: not found"' in printed
        failed = himl("runs", "attach", run.run_id, "--service", "jupyter")
        assert (failed.code, failed.stdout) == (1, "")
        assert f"Service 'jupyterlab' of run '{run.run_id}' failed: jupyter-lab: not found." in failed.stderr


def test_what_has_no_services_is_refused(himl: Himl, lab: StagedWorkspace, project: Path) -> None:
    def refused(*arguments: str, code: int, message: str, hint: str) -> None:
        outcome = himl("runs", "attach", *arguments)
        assert (outcome.code, outcome.stdout) == (code, ""), outcome.stderr
        assert message in outcome.stderr
        assert hint in outcome.stderr

    with lab.run_jobs() as jobs:
        plain, served = submitted(himl, lab), submitted(himl, lab, "--jupyter", "--num_nodes", "2")
        sent = lab.state.runs[served.run_id]
        refused(plain.run_id, code=3, message="has no services.", hint="--vscode, --jupyter or --ssh_key FILE")
        refused(
            served.run_id, "--service", "vscode", code=3, message="has no service 'vscode', only jupyterlab.", hint=""
        )
        refused(served.run_id, "--ssh", code=3, message="has no service 'ssh', only jupyterlab.", hint="--ssh_key FILE")
        refused(served.run_id, "--node", "2", code=2, message="--node 2: run", hint="has 2 nodes, counted from 0.")
        refused(served.run_id, "--node", "-1", code=2, message="--node -1: run", hint="has 2 nodes, counted from 0.")
        refused(
            served.run_id, "--", "-l", "ada", code=2, message="'-l' after -- is an argument for ssh.", hint="Add --ssh"
        )
        second = himl.ok("runs", "attach", served.run_id, "--node", "1", "-q").stdout.strip()
        assert second == sent.services[1]["jupyterlab"]["endpoint"].replace("<nodeIndex>", "1")
        assert sent.job is not None
        del sent.job["services"]["jupyterlab"]["nodes"]  # as other clients send it
        refused(served.run_id, "--node", "1", code=3, message="Only the first node of run", hint="nodes: all")
        jobs.cancel(served)
        lab.wait_for(served.run_id, "Canceled")
    refused(
        served.run_id,
        code=1,
        message="has ended (Canceled), so its services have stopped.",
        hint=f"himl runs show {served.run_id}",
    )
    local = RecordedRuns(project)
    local.add("here_1_aa")
    local.add("there_1_bb", tags={"himl.slurm_job": "77"})
    local.add("there_2_cc", tags={"himl.slurm_job": "77;c2"})
    refused(
        "there_2_cc",
        code=2,
        message="Run 'there_2_cc' is not an Azure ML job",
        hint="srun -M c2 --jobid=77 --overlap --pty bash",
    )
    refused("here_1_aa", code=2, message="Run 'here_1_aa' is not an Azure ML job", hint="")
    refused(
        "there_1_bb",
        code=2,
        message="Run 'there_1_bb' is not an Azure ML job",
        hint="srun --jobid=77 --overlap --pty bash",
    )


@posix
def test_ctrl_c_ends_the_waiting_and_an_outage_does_not(himl: Himl, lab: StagedWorkspace, tmp_path: Path) -> None:
    opened = tmp_path / "opened"
    browser = write_program(
        tmp_path / "bin", "browser", f"import sys\nopen({str(opened)!r}, 'a').write(sys.argv[1] + '\\n')\n"
    )
    with lab.run_jobs(service_status="NotStarted"):
        run = submitted(himl, lab, "--vscode", "--jupyter", "--ssh_key", str(key_pair(tmp_path)) + ".pub")
        with himl.start("runs", "attach", run.run_id) as waiting:
            assert waiting.stderr is not None
            assert b"Waiting for vscode (notstarted)" in waiting.stderr.readline()
            waiting.send_signal(signal.SIGINT)
            printed, said = waiting.communicate(timeout=100)
        assert (waiting.returncode, printed) == (130, b"")
        assert f"Stopped following run '{run.run_id}'. The run continues." in said.decode()
        with himl.start(
            "runs", "attach", run.run_id, "--open", env={"BROWSER": f"{browser / 'browser'} %s"}
        ) as waiting:
            assert waiting.stderr is not None
            waiting.stderr.readline()
            lab.stage.faults.add(Status(503, retry_after=300), "GET .*/serviceinstances/", times=1)
            assert b"himl keeps trying. The run continues." in waiting.stderr.readline()
            for each in run.services[0].values():
                each["status"] = "Running"
            printed, said = waiting.communicate(timeout=100)
        assert waiting.returncode == 0, said
        urls = [run.services[0][name]["endpoint"].replace("<nodeIndex>", "0") for name in ("vscode", "jupyterlab")]
        assert opened.read_text().split() == urls
        assert f"To log in: himl runs attach {run.run_id} --ssh\n" in said.decode()
        assert run.status == "Running"


def key_pair(folder: Path) -> Path:
    """Create a private key, with its public key in the same folder."""
    if shutil.which("ssh-keygen") is None:
        lacking("the program 'ssh-keygen'")
    key = folder / "id_of_lab"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    return key


@contextmanager
def ssh_server(folder: Path, public_key: Path) -> Iterator[int]:
    """Start an sshd on loopback that accepts *public_key*, as the current user. Yield its port."""
    program = shutil.which("sshd") or "/usr/sbin/sshd"
    if not Path(program).exists():
        lacking("OpenSSH's server, sshd")
    folder.mkdir(mode=0o700)
    if os.geteuid() == 0:
        # The folder that sshd uses for privilege separation.
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / "host")], check=True)
    shutil.copy(public_key, folder / "authorized")
    port = free_port("127.0.0.1")
    settings = f"""
Port {port}
ListenAddress 127.0.0.1
HostKey {folder / "host"}
PidFile {folder / "pid"}
AuthorizedKeysFile {folder / "authorized"}
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
Subsystem sftp internal-sftp
"""
    (folder / "config").write_text(settings)
    command = [program, "-D", "-e", "-f", str(folder / "config")]
    with (folder / "log").open("wb") as log, subprocess.Popen(command, stderr=log, start_new_session=True) as server:
        try:
            until(lambda: b"Server listening" in (folder / "log").read_bytes(), lambda: (folder / "log").read_text())
            yield port
        finally:
            server.terminate()


@pytest.mark.large("starts SSH")
@posix
def test_the_users_ssh_reaches_the_jobs_node(
    himl: Himl,
    lab: StagedWorkspace,
    project: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    require_program: Callable[[str], str],
) -> None:
    """Commands, their output, exit codes and large input, and scp through himl as its ProxyCommand.

    Other users are refused.
    """
    require_program("ssh")
    home = Path(os.environ["HOME"])
    (home / ".ssh").mkdir(mode=0o700, exist_ok=True)
    key = key_pair(home / ".ssh")
    public = key.with_name(f"{key.name}.pub")
    user = getpass.getuser()
    with ssh_server(tmp_path / "sshd", public) as port, lab.run_jobs():
        run = submitted(himl, lab, "--ssh_key", str(public))
        run.ssh_port = port

        def ssh(*arguments: str, content: bytes = b"") -> subprocess.CompletedProcess[bytes]:
            line = [str(himl.program), "runs", "attach", run.run_id, "--ssh", "--", "-l", user, *arguments]
            return subprocess.run(line, cwd=project, input=content, capture_output=True, timeout=200)

        done = ssh("-v", "cat; echo to stderr >&2; exit 7", content=BIG)
        assert (done.returncode, done.stdout == BIG, b"to stderr" in done.stderr) == (7, True, True), done.stderr
        said = done.stderr.decode()
        line = f"{sys.executable} -m himl_cli runs attach {run.run_id} --stdio --node 0"
        assert f"Executing proxy command: exec {line}\n" in said.replace("\r", "")
        assert "eyJ" not in said
        lab.stage.faults.add(Status(401), "GET ssh-.*/nbip/", times=1)
        proxy = f"ProxyCommand={himl.program} runs attach {run.run_id} --stdio"
        options = ("-o", proxy, "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-i", str(key))
        write_files(project, {"big.bin": BIG})
        copied = subprocess.run(
            ["scp", "-q", *options, "big.bin", f"{user}@job:{tmp_path}/copy.bin"],
            cwd=project,
            capture_output=True,
            timeout=200,
        )
        assert (copied.returncode, (tmp_path / "copy.bin").read_bytes() == BIG) == (0, True), copied.stderr
        assert [seen.status for seen in lab.stage.log.find("nodes.azureml.ms")] == [101, 401, 101]
        other = lab.environment(lab.add_principal({Right.READ, Right.WRITE}))
        monkeypatch.setenv("HIML_NO_CACHE", "1")
        refused = himl("runs", "attach", run.run_id, "--stdio", env=other)
        assert (refused.code, refused.stdout) == (4, "")
        assert "You may not use service 'ssh' of this job" in refused.stderr
        run.services[0]["ssh"]["properties"]["ProxyEndpoint"] = "wss://ssh-1.example.org"
        elsewhere = himl("runs", "attach", run.run_id, "--stdio")
        assert (elsewhere.code, "only to Azure, not to 'wss://ssh-1.example.org'" in elsewhere.stderr) == (5, True)
