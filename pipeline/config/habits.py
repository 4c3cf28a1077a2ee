"""Names of settings in other programs that users type out of habit. Only data."""

from __future__ import annotations

_BATCH = ("batch_size", "bs", "batch", "train_batch_size", "train_bs", "total_batch_size", "effective_batch_size")
_STEPS_OF = ("steps", "num_steps", "n_steps", "train_steps", "training_steps", "max_iters", "iterations", "n_iters")
_FOLDER = (
    "out",
    "output",
    "outdir",
    "out_dir",
    "save_dir",
    "log_dir",
    "run_dir",
    "work_dir",
    "save_path",
    "output_path",
)
_DEVICE = "a GPU is used where there is one; write use_cpu: true for the CPU, or set CUDA_VISIBLE_DEVICES"
_PROCESSES = "start several processes with accelerate launch --num_processes N"
# A name -> the key that is meant, or what to do instead, a sentence.
HABITS = {
    **dict.fromkeys(("lr", "max_lr", "peak_lr", "base_lr"), "learning_rate"),
    **dict.fromkeys(("wd", "decay", "l2", "weightdecay"), "weight_decay"),
    **dict.fromkeys(_BATCH, "global_batch_size"),
    **dict.fromkeys(("micro_batch_size", "per_device_batch_size", "device_batch_size"), "per_device_train_batch_size"),
    **dict.fromkeys(("eval_batch_size", "test_batch_size", "val_batch_size"), "per_device_eval_batch_size"),
    **dict.fromkeys(("epochs", "epoch", "num_epochs", "n_epochs", "max_epochs", "train_epochs"), "num_train_epochs"),
    **dict.fromkeys((*_STEPS_OF, "num_training_steps", "max_train_steps", "total_steps", "max_step"), "max_steps"),
    **dict.fromkeys(("lr_scheduler", "scheduler", "lr_schedule", "schedule", "scheduler_type"), "lr_scheduler_type"),
    **dict.fromkeys(("seed_everything", "random_seed", "rng_seed", "manual_seed"), "seed"),
    **dict.fromkeys(("warmup", "num_warmup_steps", "warmup_iters", "lr_warmup_steps", "n_warmup"), "warmup_steps"),
    **dict.fromkeys(("optimizer", "opt", "optimizer_type"), "optim"),
    **dict.fromkeys(("collators", "data_collator", "augmentation", "augment"), "collator"),
    **dict.fromkeys(("beta1", "adam_b1"), "adam_beta1"),
    **dict.fromkeys(("beta2", "adam_b2"), "adam_beta2"),
    **dict.fromkeys(("betas", "adam_betas"), "write adam_beta1 and adam_beta2"),
    **dict.fromkeys(("eps", "epsilon", "adam_eps"), "adam_epsilon"),
    **dict.fromkeys(
        ("grad_clip", "clip", "clip_grad", "clip_grad_norm", "gradient_clipping", "max_norm"), "max_grad_norm"
    ),
    **dict.fromkeys(("grad_clip_norm", "gradient_clip_val", "gradient_clip", "gradient_clipping"), "max_grad_norm"),
    **dict.fromkeys(("grad_accum", "gradient_accumulation", "accumulate_grad_batches"), "gradient_accumulation_steps"),
    **dict.fromkeys(("grad_accum_steps", "accumulation_steps"), "gradient_accumulation_steps"),
    **dict.fromkeys(_FOLDER, "output_dir"),
    **dict.fromkeys(("name", "exp_name", "experiment", "experiment_name", "wandb_name"), "run_name"),
    **dict.fromkeys(("wandb", "use_wandb", "tracker", "logger", "log_with"), "report_to"),
    **dict.fromkeys(("wandb_project", "project_name"), "project"),
    **dict.fromkeys(("eval_interval", "eval_every", "eval_freq", "val_check_interval", "evaluate_every"), "eval_steps"),
    **dict.fromkeys(("log_interval", "log_every", "log_every_n_steps", "log_freq", "print_every"), "logging_steps"),
    **dict.fromkeys(("save_interval", "save_every", "save_freq", "checkpoint_every", "ckpt_interval"), "save_steps"),
    **dict.fromkeys(("patience", "early_stopping_patience"), "stop_patience"),
    **dict.fromkeys(("early_stopping", "early_stop"), "stop_when"),
    **dict.fromkeys(("compile", "use_compile"), "torch_compile"),
    **dict.fromkeys(("amp", "precision", "mixed_precision", "dtype", "torch_dtype"), "write bf16: true, auto or false"),
    **dict.fromkeys(("cpu", "force_cpu"), "use_cpu"),
    **dict.fromkeys(("device", "devices", "gpu", "gpus", "cuda", "accelerator"), _DEVICE),
    **dict.fromkeys(("num_gpus", "n_gpu", "num_processes", "world_size", "nproc_per_node"), _PROCESSES),
    **dict.fromkeys(("resume", "resume_from", "load_checkpoint", "ckpt_path"), "rerunning the same command resumes"),
    **dict.fromkeys(("num_workers", "workers"), "rows lie on the device, so there is no data loader; leave it out"),
    **dict.fromkeys(("dropout", "n_layer", "n_head", "n_embd", "n_positions"), "it belongs into the block model"),
    **dict.fromkeys(("n_layers", "num_layers", "layers", "depth", "num_hidden_layers"), "model.n_layer"),
    **dict.fromkeys(("d_model", "hidden_size", "hidden_dim", "width", "embed_dim"), "model.n_embd"),
    **dict.fromkeys(("heads", "n_heads", "num_heads", "num_attention_heads"), "model.n_head"),
    **dict.fromkeys(("block_size", "context_length", "max_seq_length", "max_length", "seq_len"), "model.n_positions"),
    **dict.fromkeys(("model_name", "model_name_or_path", "pretrained", "base_model"), "model.model_name_or_path"),
    **dict.fromkeys(("data", "dataset", "task", "dataset_name"), "corpus.name"),
    **dict.fromkeys(("train_frac", "frac_train", "train_fraction", "train_ratio"), "corpus.train_fraction"),
}
