"""Every manifest parses, agrees with the project and with each other, and runs commands that `nova` takes."""

import contextlib
import io
import re
import shlex
import tomllib
from pathlib import Path

import pytest
import yaml

from jobs import cli, submit

ROOT = Path(__file__).parents[2]
INFRA = ROOT / "infra"
MANIFESTS = sorted(path for path in INFRA.rglob("*") if path.suffix in (".yaml", ".yml"))
JOBS = ("curate", "train", "generate", "evaluate")
SECRET_NAME = re.compile(r"token|password|secret|access_key|credential", re.IGNORECASE)


def load(path):
    return [document for document in yaml.safe_load_all((INFRA / path).read_text()) if document is not None]


def ray_cluster(path):
    """The spec of the cluster in a RayCluster or RayJob."""
    (document,) = load(path)
    return document["spec"] if document["kind"] == "RayCluster" else document["spec"]["rayClusterSpec"]


def pods(path):
    cluster = ray_cluster(path)
    return [group["template"]["spec"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]


def walk(node, name=""):
    """Every scalar with the key that it stands under."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from walk(value, str(key))
    elif isinstance(node, list):
        for value in node:
            yield from walk(value, name)
    else:
        yield name, node


def cron():
    (document,) = load("kuberay/refresh-cronjob.yaml")
    return document


def cron_container():
    (container,) = cron()["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    return container


def version():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def pinned(package):
    (pin,) = re.findall(rf"(?m)^{re.escape(package)}==(\S+)$", (ROOT / "constraints.txt").read_text())
    return pin


def accepted(command):
    """What `nova COMMAND --print-config` says; raises where nova would refuse the command line."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        assert cli.run([*command, "--print-config"]) == 0
    return dict(line.split("=", 1) for line in output.getvalue().splitlines())


def test_the_manifests_are_those_that_the_documentation_explains():
    page = (ROOT / "docs/operations.md").read_text()
    files = [path.relative_to(ROOT) for path in INFRA.rglob("*") if path.is_file() and path.name != "README.md"]
    assert [str(path) for path in files if f"`{path}`" not in page] == []
    kinds = {str(path.relative_to(INFRA)): [document.get("kind") for document in load(path)] for path in MANIFESTS}
    assert kinds == {
        **{f"kuberay/{job}.yaml": ["RayJob"] for job in JOBS},
        "kuberay/cluster.yaml": ["RayCluster"],
        "kuberay/refresh-cronjob.yaml": ["CronJob"],
        "kuberay/shared.yaml": ["ConfigMap", "PersistentVolumeClaim"],
        "mlflow/compose.yaml": [None],
        "monitoring/podmonitor.yaml": ["PodMonitor"],
        "monitoring/prometheus.yml": [None],
    }


@pytest.mark.parametrize("job", JOBS)
def test_a_ray_job_ends_and_is_taken_up_again(job):
    (document,) = load(f"kuberay/{job}.yaml")
    spec = document["spec"]
    assert document["apiVersion"] == "ray.io/v1"
    assert spec["shutdownAfterJobFinishes"] is True
    assert spec["ttlSecondsAfterFinished"] > 0
    assert spec["activeDeadlineSeconds"] >= 3600
    assert spec["backoffLimit"] >= 1


@pytest.mark.parametrize("job", JOBS)
def test_a_ray_job_runs_a_command_that_nova_takes(job):
    (document,) = load(f"kuberay/{job}.yaml")
    program, *command = shlex.split(document["spec"]["entrypoint"])
    assert (program, command[0]) == ("nova", job)
    config = accepted(command)
    paths = [value for value in config.values() if value.startswith("/")]
    assert paths, "a job reads and writes somewhere"
    assert all(path.startswith("/data/") for path in paths), "what every node sees is below /data"


def test_the_jobs_hand_on_what_they_make():
    curate, train, generate, evaluate = (
        accepted(shlex.split(load(f"kuberay/{job}.yaml")[0]["spec"]["entrypoint"])[1:]) for job in JOBS
    )
    assert train["tables"] == curate["tables"]
    assert generate["checkpoint"] == train["run"]
    assert evaluate["samples"] == generate["output"]
    assert (train["vae"], train["text_encoder"]) == (curate["latents.model"], curate["text.model"])


def test_training_has_the_gpus_that_its_workers_ask_for():
    (document,) = load("kuberay/train.yaml")
    config = accepted(shlex.split(document["spec"]["entrypoint"])[1:])
    (group,) = document["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    (container,) = group["template"]["spec"]["containers"]
    limits = container["resources"]["limits"]
    assert group["replicas"] == group["minReplicas"] == group["maxReplicas"]
    workers, machines = int(config["parallel.workers"]), group["replicas"]
    assert workers * float(config["parallel.gpus_per_worker"]) == machines * int(limits["nvidia.com/gpu"])
    assert workers * float(config["parallel.cpus_per_worker"]) <= machines * int(limits["cpu"])


@pytest.mark.parametrize("path", [f"kuberay/{name}.yaml" for name in (*JOBS, "cluster")])
def test_a_cluster_has_tokens_gpus_and_the_shared_volume(path):
    cluster = ray_cluster(path)
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["rayVersion"] == pinned("ray")
    groups = {group["groupName"]: group for group in cluster["workerGroupSpecs"]}
    needs_cpus = path not in ("kuberay/train.yaml", "kuberay/generate.yaml")
    assert set(groups) == ({"gpu", "cpu"} if needs_cpus else {"gpu"})
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    for group in groups.values():
        assert 0 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    claims = {document["metadata"]["name"] for document in load("kuberay/shared.yaml")}
    for pod in pods(path):
        (container,) = pod["containers"]
        (volume,) = pod["volumes"]
        assert volume["persistentVolumeClaim"]["claimName"] in claims
        assert container["volumeMounts"] == [{"name": volume["name"], "mountPath": "/data"}]
        assert {"configMapRef": {"name": "nova"}} in container["envFrom"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert container["resources"]["requests"] == container["resources"]["limits"]
    with_gpus = [pod for pod in pods(path) if "nvidia.com/gpu" in pod["containers"][0]["resources"]["limits"]]
    assert len(with_gpus) == 1


def test_the_start_parameters_are_ray_s():
    from ray.scripts.scripts import start

    options = {option.lstrip("-") for parameter in start.params for option in parameter.opts}
    for name in (*JOBS, "cluster"):
        cluster = ray_cluster(f"kuberay/{name}.yaml")
        for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
            assert set(group["rayStartParams"]) <= options


def test_every_pod_runs_the_project_s_image():
    images = {container["image"] for name in (*JOBS, "cluster") for pod in pods(f"kuberay/{name}.yaml")
              for container in pod["containers"]}  # fmt: skip
    assert images | {cron_container()["image"]} == {f"nova:{version()}"}
    assert f"-t nova:{version()} " in (INFRA / "docker/Dockerfile").read_text()


def test_refreshes_do_not_overlap():
    spec = cron()["spec"]
    pod = spec["jobTemplate"]["spec"]["template"]["spec"]
    assert cron()["apiVersion"] == "batch/v1"
    assert spec["concurrencyPolicy"] == "Forbid"
    assert len(spec["schedule"].split()) == 5
    assert pod["restartPolicy"] == "Never"
    assert pod["securityContext"]["runAsNonRoot"] is True


def test_the_schedule_sends_a_refresh_that_nova_takes():
    container = cron_container()
    program, name, *arguments = container["command"] + container["args"]
    assert (program, name) == ("nova", "submit")
    submit_options, command = submit.split(arguments)
    config, _ = submit.parse(submit_options)
    (cluster,) = load("kuberay/cluster.yaml")
    assert config.address == f"http://{cluster['metadata']['name']}-head-svc:8265"
    assert config.follow  # the pod ends with the status of the refresh
    assert command[0] == "refresh"
    refresh = accepted(command)
    assert refresh["train"] == "True"
    curate = accepted(shlex.split(load("kuberay/curate.yaml")[0]["spec"]["entrypoint"])[1:])
    assert {key: refresh[key] for key in curate} == curate  # what is scheduled is what was run by hand


def test_a_replaced_pod_follows_the_job_of_its_hour():
    """The name is the Kubernetes job's: new for every hour, the same for the pods that replace each other."""
    container = cron_container()
    submit_options, _ = submit.split(container["args"])
    config, _ = submit.parse(submit_options)
    assert config.submission_id == "$(JOB_NAME)"
    (variable,) = [entry for entry in container["env"] if entry["name"] == "JOB_NAME"]
    assert variable["valueFrom"]["fieldRef"]["fieldPath"] == "metadata.labels['batch.kubernetes.io/job-name']"


def test_the_schedule_s_token_is_the_cluster_s():
    (cluster,) = load("kuberay/cluster.yaml")
    variables = {entry["name"]: entry for entry in cron_container()["env"]}
    assert variables["RAY_AUTH_MODE"]["value"] == "token"
    reference = variables["RAY_AUTH_TOKEN"]["valueFrom"]["secretKeyRef"]
    assert reference == {"name": cluster["metadata"]["name"], "key": "auth_token"}


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_no_secret_is_written_down(path):
    for document in load(path):
        assert document.get("kind") != "Secret"
        for name, value in walk(document):
            if isinstance(value, str) and SECRET_NAME.search(name) and name.isupper():
                assert value.startswith("${"), f"{name} is written into {path.name}"
        for _, value in walk(document):  # addresses such as postgresql://user:password@host
            for password in re.findall(r"://[^/\s:@]+:([^@\s]+)@", str(value)):
                assert password.startswith("${")


def test_the_example_of_env_names_what_compose_needs_and_no_values():
    text = (INFRA / "mlflow/compose.yaml").read_text()
    needed = set(re.findall(r"(?<!\$)\$\{(\w+):\?", text))
    example = dict(re.findall(r"(?m)^(\w+)=(.*)$", (INFRA / "mlflow/.env.example").read_text()))
    assert set(example) == needed
    assert {name: value for name, value in example.items() if SECRET_NAME.search(name)} == {
        "POSTGRES_PASSWORD": "",
        "MINIO_ROOT_PASSWORD": "",
    }
    optional = set(re.findall(r"(?<!\$)\$\{(\w+):-", text))
    assert all(name in (INFRA / "mlflow/.env.example").read_text() for name in optional)


def test_the_mlflow_server_listens_on_this_machine_only():
    (compose,) = load("mlflow/compose.yaml")
    services = compose["services"]
    assert set(services) == {"postgres", "minio", "create-bucket", "mlflow"}
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert "127.0.0.1:5000:5000" in ports
    assert all(port.startswith("127.0.0.1:") for port in ports)
    assert "ports" not in services["postgres"]
    assert services["mlflow"]["depends_on"]["create-bucket"] == {"condition": "service_completed_successfully"}
    mounted = {mount.split(":")[0] for service in services.values() for mount in service.get("volumes", [])}
    assert mounted == set(compose["volumes"])


def test_the_bucket_that_is_made_is_the_one_that_is_written():
    (compose,) = load("mlflow/compose.yaml")
    (bucket,) = re.findall(
        r"mc mb --ignore-existing store/(\S+)", "\n".join(compose["services"]["create-bucket"]["command"])
    )
    assert f"--artifacts-destination=s3://{bucket}" in compose["services"]["mlflow"]["command"]


def test_the_mlflow_server_takes_its_options():
    from mlflow.cli import server
    from mlflow.environment_variables import MLFLOW_S3_ENDPOINT_URL, MLFLOW_SERVER_ALLOWED_HOSTS

    (compose,) = load("mlflow/compose.yaml")
    program, name, *options = compose["services"]["mlflow"]["command"]
    flags = {option for parameter in server.params for option in (*parameter.opts, *parameter.secondary_opts)}
    variables = {parameter.envvar for parameter in server.params} | {
        MLFLOW_S3_ENDPOINT_URL.name,
        MLFLOW_SERVER_ALLOWED_HOSTS.name,
    }
    assert (program, name) == ("mlflow", "server")
    assert {option.partition("=")[0] for option in options} <= flags
    settings = {key for key in compose["services"]["mlflow"]["environment"] if key.startswith("MLFLOW_")}
    assert settings <= variables
    assert f"mlflow=={pinned('mlflow')} " in (INFRA / "mlflow/Dockerfile").read_text()


def test_the_image_gets_all_that_it_copies_and_is_not_run_by_root():
    dockerfile = (INFRA / "docker/Dockerfile").read_text()
    ignored = (INFRA / "docker/Dockerfile.dockerignore").read_text().split()
    copied = [name for line in re.findall(r"(?m)^COPY (.+)$", dockerfile) for name in line.split()[:-1]]
    assert "*" in ignored
    assert all(f"!{name}" in ignored for name in copied)
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]["include"]
    assert {name.rstrip("*") for name in packages} <= set(copied)
    instructions = re.findall(r"(?m)^(USER|RUN|ENTRYPOINT) (.*)$", dockerfile)
    assert instructions[-2:] == [("USER", "1000:1000"), ("ENTRYPOINT", '["nova"]')]
    user = {pod["securityContext"]["runAsUser"] for name in (*JOBS, "cluster") for pod in pods(f"kuberay/{name}.yaml")}
    assert user == {1000}


def test_prometheus_reads_the_file_that_ray_writes():
    from ray._private.ray_constants import PROMETHEUS_SERVICE_DISCOVERY_FILE

    (config,) = load("monitoring/prometheus.yml")
    (scrape,) = config["scrape_configs"]
    assert scrape["file_sd_configs"] == [{"files": [f"/tmp/ray/{PROMETHEUS_SERVICE_DISCOVERY_FILE}"]}]
