"""The benchmark: its tasks on a tiny model, the checks that stop a wrong result, the shares, the table, the figure."""
import json
from argparse import Namespace
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.benchmark import __main__ as command
from experiments.benchmark import device, one_card, scaling, tasks
from experiments.benchmark.compare import compare, read_lines
from experiments.benchmark.tasks import Case, EndToEnd, Training, WrongResult, standard_case
from experiments.peers.common import Seconds, Timed
from nft_jax.config import AdapterConfig
from nft_jax.model.config import Compute
from nft_jax.model.decoder import count_parameters
from nft_jax.train.batch import Example
from nft_jax.types import Prompt
from refusal import refused

KEYS = {"peer", "variant", "model", "task", "threads", "value", "value_cpu", "peak_rss_mb", "compile_s",
        "versions", "date", "machine", "contention", "tokens", "check"}


@pytest.fixture(scope="module")
def case(tiny_model) -> Case:
    rng = np.random.default_rng(0)
    prompts = tuple(Prompt(i, "", "", "", rng.integers(4, 32, 8).astype(np.int32)) for i in range(2))
    examples = tuple(Example(rng.integers(4, 32, 4).astype(np.int32), rng.integers(4, 32, n).astype(np.int32),
                             float(n % 2), 0.5, 0.5) for n in (12, 5, 3, 12))
    return Case(tiny_model, Compute(), prompts, np.array([[8, 3], [1, 5]], np.int32), slots=2, block_size=4,
                examples=examples, sequences=4, rows=2, row_length=16)


@pytest.fixture(scope="module")
def options() -> Namespace:
    return Namespace(task="e2e_var", model="tiny", threads=1, reps=1, warmup=1, max_seconds=60.0, device="cpu",
                     profile=None)


@pytest.fixture(scope="module")
def end_to_end(case) -> EndToEnd:
    return EndToEnd(case)


def test_a_result_has_its_keys_and_was_checked(case, options, end_to_end, monkeypatch, tmp_path):
    monkeypatch.setattr("experiments.benchmark.tasks.TASK_CLASSES", {"e2e": lambda _: end_to_end})
    line = command.measure_case(case, Namespace(**vars(options) | {"profile": tmp_path}))
    assert line.keys() >= KEYS and json.loads(json.dumps(line)) == line
    assert line["tokens"] == 17
    # Every prompt of 8 tokens stands before both of its answers.
    assert line["trained_tokens_per_s_device"] == pytest.approx(line["value"] * (17 + 32) / 17, rel=0.01)
    assert 0 <= line["check"]["logprob_error_mean"] <= line["check"]["logprob_error"] < 1e-4
    assert 0 <= line["check"]["trainer_logprob_error"] < 1e-4 and 0 <= line["check"]["trainer_loss_error"] < 1e-4
    assert line["value"] > 0 and line["profile"]["costs"][0]["ms"] > 0
    assert [len(r.tokens) for r in end_to_end.rollouts.rollouts] == [8, 3, 1, 5]


def test_rollouts_that_are_wrong_stop_the_benchmark(case, end_to_end):
    rollouts = end_to_end.rollouts
    rollouts.weights = rollouts.sampler.cast(tasks.random_params(case))
    rollouts.run(0)
    good = rollouts.rollouts
    assert rollouts.logprob_error(tasks.random_params(case), good)["logprob_error"] < 1e-4
    tampered = replace(good[1], logprobs=good[1].logprobs + np.float32([0, 0, 1e-3]))
    with refused("log-probs", kind=WrongResult):
        rollouts.logprob_error(tasks.random_params(case), [good[0], tampered, *good[2:]])
    with refused([8, 3, 1, 5], kind=WrongResult):
        rollouts.check_lengths([good[1], *good[1:]])


def test_a_train_step_that_is_wrong_stops_the_benchmark(end_to_end):
    training: Training = end_to_end.training
    training.run(0)
    assert training.check()["loss_error"] < 1e-4
    training.loss = replace(training.loss, neg_weight=0.5)          # the compiled step has the weight 1
    with refused("packed micro-batch", kind=WrongResult):
        training.check()
    with pytest.raises(WrongResult):
        tasks.require_close(float("nan"), 1.0, "nothing")


def test_wrong_old_logprobs_stop_the_benchmark(case, monkeypatch):
    training, right = Training(case), Training.old_logprobs
    monkeypatch.setattr(Training, "old_logprobs", lambda self, examples: [x + 1e-3 for x in right(self, examples)])
    with refused("old log-probs", kind=WrongResult):
        training.check()


def test_adapters_are_trained_beside_a_model_that_stays(case):
    training = Training(replace(case, adapter=AdapterConfig(rank=2)))
    base, first = jax.device_get((training.base, training.state.params))
    training.run(0)
    assert training.check()["loss_error"] < 1e-4
    assert training.adapter_parameters == sum(x.size for x in jax.tree.leaves(first)) > 0
    assert all(np.array_equal(*pair) for pair in zip(*map(jax.tree.leaves, (base, training.base)), strict=True))
    moved = jax.tree.map(lambda x, y: not np.array_equal(x, y), first, jax.device_get(training.state.params))
    assert all(jax.tree.leaves([part["lora_b"] for part in moved["layers"].values()]))


def test_many_small_differences_are_too_much():
    assert tasks.require_logprobs(np.float32([0.2] + [0.001] * 99), "bfloat16", "")["logprob_error_mean"] < 0.02
    with refused("mean of 100 tokens", kind=WrongResult):
        tasks.require_logprobs(np.full(100, 0.05, np.float32), "bfloat16", "")


def test_shares_of_the_device(end_to_end, options, monkeypatch):
    monkeypatch.setattr("experiments.benchmark.device.copy_bytes_per_second", lambda: 1e9)
    monkeypatch.setattr("experiments.benchmark.device.matmul_flops_per_second", lambda: 1e9)
    timed = Timed([], [Seconds(4.0, 1.0), Seconds(1.0, 1.0), Seconds(2.0, 1.0)])
    found = device.shares(end_to_end.rollouts, timed, options)
    assert found["bandwidth_share"] == round(device.rollout_bytes(end_to_end.case) / 1e9 / 2.0, 4)
    found = device.shares(end_to_end.training, timed, options)
    rate = found["step_tokens_per_s"] * device.step_flops(end_to_end.case) / 48 / 1e9
    assert found["step_mfu"] == pytest.approx(rate, rel=0.01, abs=1e-4) and found["score_mfu"] > 0


def test_the_standard_cases_are_the_peers_workloads():
    nano = standard_case("nano", "e2e_var")
    assert nano.limits.shape == (16, 8) and nano.limits.sum() == 4107 and nano.limits.max() == 128
    assert sum(len(e.prompt) + len(e.response) for e in nano.examples) == 8203
    assert 12 <= nano.rows <= 16 and nano.row_length == 160
    assert standard_case("half", "train").rows == 8 and standard_case("half", "rollout").slots == 16
    assert count_parameters(standard_case("half", "train").model) == 494_032_768
    assert tasks.rows_for([160] * 128, 160, 16) == 16 and tasks.rows_for([10, 10], 160, 16) == 1


def test_traffic_and_operations_are_those_of_a_plain_count(case):
    shape, dtype_bytes = case.model, 4
    cache = 2 * shape.num_layers * shape.num_kv_heads * shape.head_dim * dtype_bytes
    per_token = sum(8 + step for limit in (8, 3, 1, 5) for step in range(limit))
    steps = 9                                                         # 17 tokens by 2 slots
    assert device.rollout_bytes(case) == steps * dtype_bytes * count_parameters(shape) + cache * per_token
    attention = sum(n * n for n in (16, 9, 7, 16)) * shape.num_layers * shape.num_heads * shape.head_dim
    multiplied = count_parameters(shape) - (0 if shape.tie_embeddings else shape.vocab_size * shape.hidden_size)
    assert device.step_flops(case) == 6 * multiplied * 48 + 6 * attention == 3 * device.score_flops(case)
    # A frozen weight has no gradient; an adapter's has one.
    assert device.step_flops(case, 100) == 2 * device.score_flops(case) + 6 * 100 * 48


def test_accelerator_workloads(tiny_model):
    assert set(command.ACCELERATOR_MODELS) == set(device.MODELS)
    assert command.parse(["--device", "gpu", "--model", "half", "--task", "train", "verify"]).model == ["half"]
    rollout = device.accelerator_case(tiny_model, "rollout", slots=16)
    assert rollout.limits.shape == (2, 8) and (rollout.limits == 1024).all() and rollout.compute.dtype == "bfloat16"
    assert all(64 <= len(prompt.tokens) <= 512 for prompt in rollout.prompts)
    varied = device.accelerator_case(tiny_model, "rollout_var", slots=16)
    assert varied.limits.size == 48 and varied.limits.max() == 1024 and abs(varied.limits.mean() - 256) < 40
    full = device.accelerator_case(tiny_model, "train")
    assert [len(e.response) for e in full.examples] == [3584] * 16 and (full.rows, full.row_length) == (4, 4096)
    # prime-rl's shape on one card.
    long = device.accelerator_case(tiny_model, "train", row_length=device.ROW_LENGTHS["qwen3_0_6b"])
    assert [len(e.response) for e in long.examples] == [15_872] * 4 and (long.rows, long.row_length) == (1, 16_384)
    assert full.adapter.rank == 0 and device.accelerator_case(tiny_model, "train_lora").adapter == device.LORA
    both = device.accelerator_case(tiny_model, "e2e", slots=16)
    assert both.sequences == both.limits.size == len(both.examples) == 16
    assert (both.rows, both.row_length) == (4, 4096)


def test_device_rates_and_costs(tmp_path):
    assert device.copy_bytes_per_second(1 << 12) > 0 and device.matmul_flops_per_second(16) > 0
    product, x = jax.jit(lambda x: x @ x), jnp.ones((256, 256))
    with jax.profiler.trace(str(tmp_path)):
        jax.block_until_ready(product(x))
    found = device.costs(tmp_path)
    assert found["busy_ms"] == pytest.approx(sum(cost["ms"] for cost in found["costs"]), abs=0.02) and found["costs"]
    kinds = [device.kind_of(name) for name in ("loop_fusion.12", "loop_fusion_7", "dot.3")]
    assert kinds == ["loop_fusion", "loop_fusion", "dot"]


def test_questions_about_one_card(monkeypatch, tmp_path, capsys):
    """Each question's command is one of the benchmark's; what failed or came too late leaves the others."""
    for question in one_card.QUESTIONS:
        given = command.parse(one_card.command(question, "gpu", tmp_path)[3:])
        assert (given.model, given.task, given.device) == ([question.model], [question.task], "gpu")
    costs = [{"operation": f"kernel{i}", "share": 0.5 / 2 ** i} for i in range(4)]
    answers = iter([{"bandwidth_share": 0.61}, {"step_mfu": 0.4, "step_tokens_per_s": 90.0},
                    {"step_mfu": 0.5, "step_tokens_per_s": 120.0}] * 2)

    def run(arguments, timeout, **_):
        answer = next(answers) | {"profile": {"costs": costs}}
        if fails == arguments[arguments.index("--task") + 1]:
            raise one_card.subprocess.TimeoutExpired(arguments, timeout)
        return Namespace(stdout=json.dumps(answer) + "\n")

    monkeypatch.setattr(one_card.subprocess, "run", run)
    fails = ""
    assert one_card.main(["--out", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert "| one_and_half rollout | bandwidth_share | ≥ 0.5 | 0.383 | 0.610 | kernel0 50%, kernel1 25%," in told
    assert "0.75 ×" in told
    fails = "train"
    assert one_card.main(["--out", str(tmp_path)]) == 1
    told = capsys.readouterr().out
    assert "| half train | step_mfu | ≥ 0.45 | 0.356 | not measured |" in told and "0.610" in told and "×" not in told


def line(peer, model, task, value, variant="plain", **more):
    return {"peer": peer, "variant": variant, "model": model, "task": task, "value_cpu": value, "compile_s": 3.0,
            "peak_rss_mb": 9000, **more}


def test_the_table_takes_medians_and_the_fastest_variant(tmp_path):
    lines = [line("nft_jax", "nano", "rollout", value) for value in (290.0, 310.0, 900.0)]
    lines += [line("hf", "nano", "rollout", 100.0), line("hf", "nano", "rollout", 50.0, "static"),
              line("tunix", "nano", "rollout", 155.0), line("trl", "nano", "e2e", 1.0),
              line("nft_jax", "half", "train", 11.0, peak_rss_mb=12_000), line("hf", "half", "train", 10.0)]
    path = tmp_path / "results.jsonl"
    path.write_text("\n".join(map(json.dumps, [*lines, {"peer": "hf", "error": "out of memory"}])) + "\n\n")
    assert compare(read_lines(path)).splitlines() == [
        "| workload | peer | peer, tokens per CPU-s | ours | ratio | target |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
        "| nano rollout | hf (plain) | 100 | 310 | 3.10 × | ≥ 3 ×, met |",
        "| nano rollout | tunix (plain) | 155 | 310 | 2.00 × |  |",
        "| half train | hf (plain) | 10 | 11 | 1.10 × | ≥ 1.2 ×, not met |",
        "",
        "| workload | what | ours | target |",
        "| --- | ---: | ---: | ---: |",
        "| nano rollout | compile_s | 3.0 s | ≤ 4 s, met |",
        "| half train | peak_rss_mb | 12,000.0 MB | ≤ 10,000 MB, not met |",
    ]


def test_only_lines_of_one_platform_and_machine_are_compared():
    lines = [line("nft_jax", "nano", "rollout", 300.0, platform="cpu", machine="A", compilation_cache=True),
             line("nft_jax", "nano", "rollout", 9000.0, platform="NVIDIA H100", machine="A"),
             line("nft_jax", "half", "rollout", 9000.0, "bfloat16", platform="NVIDIA H100", machine="A",
                  bandwidth_share=0.7),
             line("hf", "nano", "rollout", 100.0), line("hf", "nano", "rollout", 200.0, "static", machine="B"),
             line("hf", "half", "rollout", 1.0, machine="A")]
    text = compare(lines)
    assert "| nano rollout | hf (plain) | 100 | 300 | 3.00 × | ≥ 3 ×, met |" in text
    assert "hf (static)" not in text and "9,000" not in text
    assert "| nano rollout | compile_s, from a compilation cache | 3.0 s |" in text
    assert text.index("A (NVIDIA H100)") < text.index("| half rollout | bandwidth_share | 0.700 | ≥ 0.6, met |")


@pytest.mark.parametrize(("machine", "target"), [("AMD EPYC 9R14, 1 core", "≥ 2 ×, not met"),
                                               ("Intel(R) Xeon(R) Processor, 1 core", "≥ 1.5 ×, met")])
def test_a_machine_may_have_targets_of_its_own(machine, target):
    lines = [line(peer, "nano", "e2e", value, platform="cpu", machine=machine)
             for peer, value in (("nft_jax", 160.0), ("hf", 100.0))]
    assert f"| nano e2e | hf (plain) | 100 | 160 | 1.60 × | {target} |" in compare(lines)


def test_one_failure_does_not_stop_the_others(monkeypatch, capsys, tmp_path):
    def measure(model, task, options):
        if task == "train":
            raise RuntimeError("RESOURCE_EXHAUSTED: out of memory")
        return line("nft_jax", model, task, 500.0)

    monkeypatch.setattr(command, "measure", measure)
    monkeypatch.setattr(command, "pin", lambda threads, device: None)
    peers, out = tmp_path / "peers.jsonl", tmp_path / "ours.jsonl"
    peers.write_text(json.dumps(line("hf", "nano", "rollout", 100.0)))
    assert command.main(["--task", "train", "rollout", "--out", str(out), "--compare", str(peers)]) == 1
    assert ["error" in json.loads(text) for text in out.read_text().splitlines()] == [True, False]
    assert "| nano rollout | hf (plain) | 100 | 500 | 5.00 × | ≥ 3 ×, met |" in capsys.readouterr().out
    assert command.main(["--compare", str(peers)]) == 0


@pytest.mark.parametrize(("wrong", "way_out"), [
    ("", "give --task or --compare"),
    ("--task rollout --model one_and_half", "write --model nano or mini or half, or add --device gpu"),
    ("--task rollout --device gpu", "--device gpu has no model nano: write --model half or one_and_half"),
    ("--task e2e_var train_var train --device gpu --model half",
     "--device gpu has no task e2e_var train_var: write --task rollout or rollout_var or train or train_lora or e2e"),
])
def test_what_a_device_has_no_workload_for_is_refused(wrong, way_out, capsys):
    with pytest.raises(SystemExit):
        command.main(wrong.split())
    assert way_out in capsys.readouterr().err


def test_the_figure_is_drawn_from_its_measurements(tmp_path):
    planned = list(scaling.points())
    assert {point.slots for sweep, _, point in planned if sweep == "slots"} == {8, 16, 32, 64, 128, 256}
    assert all(max(getattr(point, sweep) for kind, _, point in planned if kind == sweep) >= 4096
               for sweep in ("prompt", "answer", "vocabulary"))
    case = scaling.case_of(scaling.Point(slots=16, prompt=20, answer=12))
    assert case.limits.shape == (2, 8) and case.row_length == 32 and case.rows == 80 and case.sequences == 256
    lines = [line("nft_jax", "nano-like", task, 1000.0, sweep=sweep, sizes=vars(point), machine="here",
                  date="2026-01-01T00:00:00") for sweep, task, point in planned]
    (tmp_path / "scaling.jsonl").write_text("".join(json.dumps(text) + "\n" for text in lines))
    scaling.main(["--draw-only", "--figures", str(tmp_path)])
    assert (tmp_path / "scaling.png").stat().st_size > 20_000
