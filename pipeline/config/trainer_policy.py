"""What this pipeline makes of transformers' TrainingArguments: which keys a recipe may use, and why not the others.

Only data. Tests hold it against the installed transformers, so that a key that comes or goes there is noticed here.
"""

from __future__ import annotations

from typing import Any, Literal

# Settings of the Trainer that this pipeline decides, because another value would break one of its promises.
FIXED = {
    "disable_tqdm": True,
    "remove_unused_columns": False,
    "log_on_each_node": False,
    "logging_nan_inf_filter": False,  # true hides a NaN loss behind the average of the ones before it
    "ddp_find_unused_parameters": False,
}

_LOADER = "rows lie on the device and are taken by index, so there is no data loader to set up"
_LENGTHS = "a batch is a slice of a seeded permutation of all rows"
_EVALUATION = "all splits are measured on the device in one pass"
_BEST = "no step is the best one: all that the checkpoints block names are kept"
_HUB = "push_to_hub sends every kept step at the end of a run; python -m pipeline.hub push does so at any time"
_LIGER = "it has no kernels for GPT-2 and GPT-NeoX"
# Keys of TrainingArguments that would be ignored or do harm here: each with the reason.
REFUSED = {
    **dict.fromkeys(FIXED, "the pipeline decides this one"),
    "accelerator_config": _LENGTHS,
    "auto_find_batch_size": "it would change global_batch_size behind the recipe's back",
    "average_tokens_across_devices": "the loss always is a mean over the answer tokens of all devices",
    "batch_eval_metrics": _EVALUATION,
    "bf16_full_eval": "a model is measured as it is trained",
    "dataloader_drop_last": "every batch is full: an epoch's last rows share a batch with the next one's first",
    "dataloader_in_order": _LOADER,
    "dataloader_multiprocessing_context": _LOADER,
    "dataloader_num_workers": _LOADER,
    "dataloader_persistent_workers": _LOADER,
    "dataloader_pin_memory": _LOADER,
    "dataloader_prefetch_factor": _LOADER,
    "do_eval": "a run always evaluates; see eval_steps",
    "do_predict": "a run always evaluates; see eval_steps",
    "do_train": "a run always trains",
    "enable_jit_checkpoint": "it deadlocks on several processes",
    "eval_accumulation_steps": _EVALUATION,
    "eval_do_concat_batches": _EVALUATION,
    "eval_on_start": "a run always begins with an evaluation",
    "eval_use_gather_object": _EVALUATION,
    "fp16_full_eval": "a model is measured as it is trained",
    "greater_is_better": _BEST,
    "hub_always_push": _HUB,
    "hub_revision": _HUB,
    "hub_strategy": _HUB,
    "hub_token": "a secret has no place in a recipe; run hf auth login",
    "ignore_data_skip": "a resumed run continues with the very next batch",
    "include_for_metrics": "metrics are computed on the device",
    "label_names": "the corpus says which tokens are the answer",
    "label_smoothing_factor": "the objective smooths its targets; see objective.label_smoothing",
    "length_column_name": _LENGTHS,
    "liger_kernel_config": _LIGER,
    "load_best_model_at_end": _BEST,
    "local_rank": "the launcher says it; start with accelerate launch",
    "metric_for_best_model": _BEST,
    "optim_target_modules": "it belongs to optimizers that are not for recipes",
    "parallelism_config": "it cannot be written in YAML; use an accelerate config",
    "prediction_loss_only": _EVALUATION,
    "restore_callback_states_from_checkpoint": "callbacks find their state in the run folder",
    "resume_from_checkpoint": "rerunning the same command resumes",
    "save_on_each_node": "checkpoints lie on one file system",
    "save_only_model": "weights alone are kept by the checkpoints block; checkpoint-N must be able to resume",
    "torch_empty_cache_steps": "the training step does not empty the cache",
    "train_sampling_strategy": _LENGTHS,
    "use_cache": "training and evaluation predict a whole row at once",
    "use_liger_kernel": _LIGER,
}

_ON_EVALUATION = "it would let what is evaluated decide what is trained"
_OWN_STEP = "it needs a training step of its own"
_LINEAR = "it works on nn.Linear layers, of which GPT-2 has none"
# Values that would fail here, of keys that are fine: each with the reason.
REFUSED_VALUES = {
    "lr_scheduler_type": {"reduce_lr_on_plateau": _ON_EVALUATION, "greedy": _ON_EVALUATION},
    "optim": {
        **dict.fromkeys(("lomo", "adalomo"), _OWN_STEP),
        **dict.fromkeys((f"schedule_free_{kind}" for kind in ("adamw", "radam", "sgd")), _OWN_STEP),
        **dict.fromkeys((f"galore_{kind}" for kind in ("adamw", "adamw_8bit", "adafactor")), _LINEAR),
        **dict.fromkeys((f"galore_{kind}_layerwise" for kind in ("adamw", "adamw_8bit", "adafactor")), _LINEAR),
        **dict.fromkeys(("apollo_adamw", "apollo_adamw_layerwise"), _LINEAR),
    },
    "save_strategy": {"best": _BEST},
}

# Keys that users still write and transformers has dropped: what to write instead.
REMOVED = {
    "adafactor": "write optim: adafactor",
    "evaluation_strategy": "write eval_strategy",
    "fp16_backend": "leave it out",
    "fp16_opt_level": "leave it out",
    "group_by_length": "leave it out",
    "half_precision_backend": "leave it out",
    "include_inputs_for_metrics": "leave it out",
    "include_tokens_per_second": "leave it out",
    "jit_mode_eval": "leave it out",
    "logging_dir": "leave it out; tensorboard files go to the run folder",
    "mp_parameters": "leave it out",
    "no_cuda": "write use_cpu",
    "overwrite_output_dir": "leave it out; rerunning resumes, and another output_dir starts anew",
    "past_index": "leave it out",
    "per_gpu_eval_batch_size": "write per_device_eval_batch_size",
    "per_gpu_train_batch_size": "write per_device_train_batch_size",
    "push_to_hub_model_id": "write hub_model_id: user/name",
    "push_to_hub_organization": "write hub_model_id: organization/name",
    "push_to_hub_token": "leave it out; run hf auth login",
    "ray_scope": "leave it out",
    "save_safetensors": "leave it out; weights are always safetensors",
    "tokenizer": "leave it out; the corpus brings its vocabulary",
    "torchdynamo": "write torch_compile",
    "use_ipex": "leave it out",
    "use_mps_device": "leave it out",
    "warmup_ratio": "write warmup_steps, of which a number below 1 is a share of all steps",
}

_POSITIVE: dict[str, Any] = {"gt": 0}
_NOT_NEGATIVE: dict[str, Any] = {"ge": 0}
_AT_LEAST_ONE: dict[str, Any] = {"ge": 1}
_SHARE: dict[str, Any] = {"ge": 0, "lt": 1}
_SEED: dict[str, Any] = {"ge": 0, "lt": 2**32}  # numpy takes no others
BOUNDS: dict[str, dict[str, Any]] = {
    "adam_beta1": _SHARE,
    "adam_beta2": _SHARE,
    "adam_epsilon": _POSITIVE,
    "data_seed": _SEED,
    "ddp_bucket_cap_mb": _AT_LEAST_ONE,
    "ddp_timeout": _AT_LEAST_ONE,
    "eval_delay": _NOT_NEGATIVE,
    "eval_steps": _POSITIVE,
    "gradient_accumulation_steps": _AT_LEAST_ONE,
    "learning_rate": _POSITIVE,
    "logging_steps": _POSITIVE,
    "max_grad_norm": _NOT_NEGATIVE,
    "max_steps": _AT_LEAST_ONE,
    "neftune_noise_alpha": _NOT_NEGATIVE,
    "num_train_epochs": _POSITIVE,
    "per_device_eval_batch_size": _AT_LEAST_ONE,
    "per_device_train_batch_size": _AT_LEAST_ONE,
    "save_steps": _POSITIVE,
    "save_total_limit": _AT_LEAST_ONE,
    "seed": _SEED,
    "warmup_steps": _NOT_NEGATIVE,
    "weight_decay": _NOT_NEGATIVE,
}

# Types that are narrower than transformers' annotation, or say more. A number of steps below 1 is a share of them all.
_STEPS = int | float
_LEVEL = Literal["detail", "debug", "info", "warning", "error", "critical", "passive"]
KINDS: dict[str, Any] = {
    "activation_checkpointing_kwargs": dict[str, Any] | None,
    "bf16": Literal["auto"] | bool,
    "debug": str | list[str],
    "eval_steps": _STEPS | None,
    "fsdp": bool | str | None,
    "gradient_checkpointing_kwargs": dict[str, Any] | None,
    "include_num_input_tokens_seen": Literal["all", "non_padding", "no"] | bool,
    "log_level": _LEVEL,
    "log_level_replica": _LEVEL,
    "logging_steps": _STEPS,
    "lr_scheduler_kwargs": dict[str, Any] | None,
    "save_steps": _STEPS,
    "torch_compile_backend": Literal["inductor", "eager", "aot_eager", "cudagraphs"] | None,
    "torch_compile_mode": Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"] | None,
    "warmup_steps": _STEPS,
}

# Keys that are read here and that the Trainer must not see, since it would push in its own way.
OURS = ("push_to_hub", "hub_model_id", "hub_private_repo")

# Help that says more than transformers' own.
HELP = {
    "bf16": "Mixed precision in bfloat16; auto: where the device has it, so that one recipe fits laptop and GPU.",
    "data_seed": "Of the order of rows alone; null: that of seed.",
    "gradient_accumulation_steps": "Follows from global_batch_size; written, the rows at a time follow from it.",
    "hub_model_id": "Repository on the Hub for push_to_hub, user/name.",
    "hub_private_repo": "Make it private where it is new.",
    "learning_rate": "After warm-up.",
    "max_steps": "Updates in all; or write num_train_epochs.",
    "num_train_epochs": "Passes over the training rows, where max_steps is not written.",
    "output_dir": "The run's folder; null: runs/<recipe>.",
    "per_device_train_batch_size": "Rows that a device takes at a time, at most; null: its share of the batch.",
    "push_to_hub": "At the end, push the final model and a revision for every kept step; see python -m pipeline.hub.",
    "report_to": "Trackers beside metrics.jsonl: one, a list of them, all, or none.",
    "run_name": "What trackers and the report call the run; null: the recipe's name.",
    "save_total_limit": "Resumable checkpoints kept; null keeps all.",
    "seed": "Of the initial weights, dropout and, without data_seed, the order of rows. The corpus has corpus.seed.",
    "tf32": "TF32 for products of float32; null: where the GPU has it.",
    "warmup_steps": "Updates of linear warm-up; below 1, a share of all updates.",
    "weight_decay": "See decay_embeddings and decay_norms_and_biases.",
}

# Keyword arguments of activation checkpointing: torch.utils.checkpoint's, and two of transformers.
CHECKPOINTING = (
    *("use_reentrant", "preserve_rng_state", "determinism_check", "debug", "early_stop"),
    *("every_n_layers", "offload"),
)

# Packages of trackers, where they are called otherwise. Kubeflow's is the cluster.
TRACKER_PACKAGES = {"azure_ml": "azureml", "flyte": "flytekit"}

# Defaults that differ from transformers' own, or that transformers computes.
DEFAULTS: dict[str, Any] = {
    "lr_scheduler_type": "constant_with_warmup",
    "optim": "adamw_torch_fused",
    "logging_steps": 50,
    "logging_first_step": True,
    "eval_strategy": "steps",
    "eval_steps": 100,
    "per_device_eval_batch_size": 2048,
    "save_steps": 1000,
    "save_total_limit": 2,
    "project": "groklab",
}
# Keys that say nothing where they are not written, whatever default transformers has.
NO_DEFAULT = ("gradient_accumulation_steps", "max_steps", "num_train_epochs", "per_device_train_batch_size")
GLOBAL_BATCH_SIZE = 512  # rows; the papers' (Wang et al. 2024, Power et al. 2022)

# Keys that a run may change when it goes on: they say how it runs and what is watched, not what is trained.
FREE = frozenset(
    (
        *("output_dir", "run_name", "stop_when", "stop_patience", "max_eval_samples", "fast"),
        *("push_to_hub", "hub_model_id", "hub_private_repo"),
        *("track_steps", "report_to", "project", "trackio_space_id", "trackio_bucket_id", "trackio_static_space_id"),
        *("logging_steps", "logging_strategy", "logging_first_step", "log_level", "log_level_replica"),
        *("eval_steps", "eval_strategy", "eval_delay", "per_device_eval_batch_size"),
        *("save_steps", "save_strategy", "save_total_limit"),
        *("per_device_train_batch_size", "gradient_accumulation_steps", "use_cpu", "full_determinism"),
        *("activation_checkpointing", "activation_checkpointing_kwargs"),
        *("gradient_checkpointing", "gradient_checkpointing_kwargs"),
        *("torch_compile", "torch_compile_backend", "torch_compile_mode"),
        *("ddp_bucket_cap_mb", "ddp_broadcast_buffers", "ddp_static_graph", "ddp_backend", "ddp_timeout"),
        *("deepspeed", "fsdp", "fsdp_config"),
        *("debug", "skip_memory_metrics", "include_num_input_tokens_seen"),
    )
)
