"""Loads a base model with transformers, from the hub, a folder, a GGUF file or a package."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from attrs import frozen

from loraplug import (
    FUSED_EXPERTS,
    BaseFacts,
    Doc,
    InputError,
    ModelLoader,
    Placement,
    Problem,
    Quantizer,
    Run,
    quantised_share,
)
from loraplug_hf import hub, memory, places

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


AUTO_DTYPE = "LORAPLUG_AUTO_DTYPE"
_ANYWHERE = Placement()
_TOLD = (OSError, ValueError, ImportError)  # errors whose texts are meant for the user
_FAILED = (*_TOLD, KeyError, AttributeError, TypeError, RuntimeError, IndexError)
"""Errors of transformers when it cannot read a folder, or build the model of a config."""


def rescaled(config: Mapping[str, Any]) -> str | None:
    """Why adapters of a base would be scaled wrongly in evaluation (RWKV); None if they are not."""
    every, layers = config.get("rescale_every", 6), config.get("num_hidden_layers", 0)
    if config.get("model_type") != "rwkv" or not every or layers <= every:
        return None
    return (
        f"transformers divides the weights of layers {every} to {layers - 1} of this RWKV in evaluation, but not those "
        "of "
        'their adapters; use a copy of the model whose config.json has "rescale_every": 0'
    )


@frozen
class TransformersModel(ModelLoader):
    """A causal language model of transformers: from the hub, a folder, a GGUF file, or an installed package."""

    name = "transformers"
    id: Annotated[
        str,
        Doc(
            "owner/name on the hub; a folder such as ./my-model; a .gguf file; or `package:NAME/FILE.gguf`, a file in "
            "an installed Python package",
            is_path="maybe",
            aka=("model_id", "model_name_or_path", "base_model", "path"),
        ),
    ]
    revision: Annotated[str | None, Doc("commit, tag or branch on the hub; a commit always gives the same base")] = None
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16", "float16"],
        Doc("dtype to compute in; auto: bfloat16 if the hardware supports it natively, else float32"),
    ] = "auto"
    chat_template: Annotated[
        str | None,
        Doc(
            "replaces the tokenizer's chat template: chatml, the name of one that trl ships (llama3, gemma, qwen2_5, "
            "…), or a file that ends in .jinja",
            is_path="written",
        ),
    ] = None
    add_tokens: Annotated[
        tuple[str, ...],
        Doc(
            "special tokens to add to the vocabulary, such as a chat template's; their embedding and output rows are "
            "trained and saved with the adapter"
        ),
    ] = ()
    attention: Annotated[
        Literal["auto", "sdpa", "eager", "flash_attention_2"],
        Doc(
            "attention implementation; auto: sdpa, or eager if the model does not support it",
            aka=("attn_implementation",),
        ),
    ] = "auto"
    trust_remote_code: Annotated[
        bool, Doc("run Python code from the model's repository; only if you trust its authors")
    ] = False

    def check(self, recipe: Any) -> Iterable[Problem]:  # noqa: ARG002
        """Report tokens to add that are blank or listed twice."""
        from loraplug_hf.added import problems

        return problems(self.add_tokens)

    def facts(self, run: Run) -> BaseFacts | None:  # noqa: ARG002
        """The facts from config, headers, tokenizer and chat template; None if the base is damaged or not on this
        machine.
        """
        from loraplug_hf.facts import told

        found, problems = told(self)
        return None if problems else found

    def preflight(self, run: Run, recipe: Any) -> Iterable[Problem]:  # noqa: ARG002
        """Report missing or damaged files of the base, the hub's errors for one that is not cached, a base published in
        a quantized form that cannot be trained, and an RWKV whose adapters would be scaled wrongly.
        """
        from loraplug_hf.facts import told
        from loraplug_hf.published import prequantised

        found, problems = told(self, ask=True)
        yield from problems
        if found is not None and (wrong := prequantised(found) or rescaled(found.config)):
            yield Problem("model.id", wrong)
        if self.attention == "flash_attention_2" and find_spec("flash_attn") is None:
            yield Problem("model.attention", 'flash_attn is not installed; set "sdpa", or pip install flash-attn')

    def preflight_model(self, run: Run, recipe: Any, model: PreTrainedModel) -> Iterable[Problem]:  # noqa: ARG002
        """Report nothing; warns of a dtype that this machine emulates, with its measured cost."""
        from loraplug_hf.formats import tell_cost

        if self.dtype != "auto":
            tell_cost(self.torch_dtype(), run)
        return ()

    def disk(self, run: Run, recipe: Any) -> Mapping[Path, int]:  # noqa: ARG002
        """Bytes of a GGUF file dequantized to float32, if it is not in the cache yet."""
        found = self.facts(run=run)
        if found is None or not found.is_gguf or places.maybe_dequantised(places.gguf_file(self.id), run):
            return {}
        return {run.cache: 4 * found.parameters}

    def load_empty(self, run: Run) -> PreTrainedModel | None:
        """The model on the meta device, by accelerate's `init_empty_weights`; downloads no weights."""
        import torch
        from accelerate import init_empty_weights
        from transformers import AutoConfig, AutoModelForCausalLM

        found = self.facts(run=run)
        if found is None or (
            self.trust_remote_code and found.config.get("auto_map")
        ):  # its code may not be downloaded yet
            return None
        source = {"pretrained_model_name_or_path": str(found.folder)}
        if found.is_gguf:  # transformers takes seconds to read a GGUF file's config
            file = places.gguf_file(self.id)
            made = places.dequantised_place(file, run) if places.maybe_dequantised(file, run) else None
            if made is not None and made.is_dir():
                source = {"pretrained_model_name_or_path": str(made)}
            else:
                source["gguf_file"] = file.name
        with self._reading():
            config = AutoConfig.from_pretrained(**source, trust_remote_code=self.trust_remote_code)
            if self.add_tokens:
                config.get_text_config().vocab_size = found.config["vocab_size"]
            with (
                init_empty_weights(),
                torch.random.fork_rng(devices=[]),
            ):  # keep the random state of the training unchanged
                return AutoModelForCausalLM.from_config(config, trust_remote_code=self.trust_remote_code)

    def load_tokenizer(self, run: Run) -> PreTrainedTokenizerBase:
        """The tokenizer, with the recipe's `chat_template` if it names one."""
        from transformers import AutoTokenizer

        with self._reading():
            tokenizer = AutoTokenizer.from_pretrained(self.base(run), trust_remote_code=self.trust_remote_code)
        if self.add_tokens:
            from loraplug_hf.added import add_to

            add_to(tokenizer, self.add_tokens)
        if self.chat_template is not None:
            self._give_template(tokenizer, str(self.chat_template))
        return tokenizer

    def _give_template(self, tokenizer: PreTrainedTokenizerBase, wanted: str) -> None:
        from loraplug_hf import templates

        tokenizer.chat_template = templates.text_of(wanted)
        if templates.is_name(wanted):
            whole = {token.content for token in tokenizer.added_tokens_decoder.values()}
            if lacking := templates.lacking(wanted, whole):
                todo = "or use a template that fits the tokenizer"
                raise InputError(
                    templates.lacking_text(wanted, lacking, self.add_tokens), where=templates.WHERE, todo=todo
                )

    def load_model(
        self, run: Run, quantization: Quantizer | None = None, placement: Placement = _ANYWHERE
    ) -> PreTrainedModel:
        """The model in evaluation mode, where `placement` says; by default on the GPU if there is one."""
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from transformers.utils import logging

        logging.disable_progress_bar()
        if placement.meta and (empty := self.load_empty(run)) is not None:
            return empty
        dtype = self.torch_dtype() if placement.dtype is None else getattr(torch, placement.dtype)
        options: dict[str, Any] = {}
        if quantization is not None:
            options["quantization_config"] = quantization.config(dtype=dtype)
        if placement.device is not None:
            options["device_map"] = {"": placement.device}
        elif (
            torch.cuda.is_available() and not placement.sharding
        ):  # one GPU may not have room for a model that will be sharded
            options["device_map"] = {"": torch.cuda.current_device()}
        base = self.base(run)
        with self._reading():
            as_stored = quantization is None and memory.stored_as(base, dtype)
            with memory.low_memory_loading(mapped=as_stored or torch.cuda.is_available()):
                model = AutoModelForCausalLM.from_pretrained(
                    base,
                    dtype=dtype,
                    attn_implementation=None if self.attention == "auto" else self.attention,
                    trust_remote_code=self.trust_remote_code,
                    use_safetensors=True,
                    **options,
                )
        if self.add_tokens:
            from loraplug_hf.added import add_rows

            with self._reading():
                plain = AutoTokenizer.from_pretrained(base, trust_remote_code=self.trust_remote_code)
            add_rows(model, plain, self.load_tokenizer(run), self.add_tokens, run)
        bits = "" if quantization is None else f", quantized by {quantization.name}"
        if quantization is not None:
            share = quantised_share(model)
            if not share.done:
                kinds = sorted({type(module).__name__ for module in model.modules() if hasattr(module, "in_features")})
                what = f"{quantization.name} quantizes no layer of this model (its layers: {', '.join(kinds)})"
                raise InputError(what, where="quantizer", todo="remove [quantizer]")
            run.say(f"{quantization.name} quantized {share.sentence()}")
            for kind, what in ((FUSED_EXPERTS, "fused experts"), ("linear layers", "linear layers of other kinds")):
                left, _ = share.rest.get(kind, (0, ()))
                if left > share.total / 20:
                    run.warn(
                        f"{left / share.total:.0%} of the weights of the layers are {what}, which {quantization.name} "
                        f"leaves in {dtype}: memory is that of them in full"
                    )
        run.say(f"model: {self.id}, {model.num_parameters() / 1e6:,.0f} million parameters, {dtype}{bits}")
        return model

    def base(self, run: Run) -> Path:
        """The local safetensors folder; downloads or dequantizes once, then uses the cache."""
        if self.id.endswith(".gguf"):
            return places.dequantised(places.gguf_file(self.id), run)
        folder = Path(self.id)
        if folder.is_absolute():
            return places.checked_folder(folder)
        return hub.downloaded(self.id, self.revision, run, code=self.trust_remote_code)

    def torch_dtype(self) -> Any:
        """The torch dtype of the option `dtype` on this machine; LORAPLUG_AUTO_DTYPE overrides `auto`.

        Raises:
            InputError: LORAPLUG_AUTO_DTYPE is not a dtype.
        """
        import torch

        if self.dtype != "auto":
            return getattr(torch, self.dtype)
        if chosen := os.environ.get(AUTO_DTYPE):
            if chosen not in ("float32", "bfloat16", "float16"):
                raise InputError(
                    f'is "{chosen}"', where=AUTO_DTYPE, todo="set it to float32, bfloat16 or float16, or unset it"
                )
            return getattr(torch, chosen)
        if torch.cuda.is_available():
            return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
        # without hardware support a CPU may accept bfloat16 and be hundreds of times slower
        return torch.bfloat16 if torch.cpu.get_capabilities().get("amx_bf16") else torch.float32

    @contextmanager
    def _reading(self) -> Iterator[None]:
        import torch
        from safetensors import SafetensorError

        where = f"model.id {self.id}"
        try:
            yield
        except torch.OutOfMemoryError:
            raise
        except (SafetensorError, *_FAILED) as error:
            text = " ".join(
                f"{'' if isinstance(error, (SafetensorError, *_TOLD)) else type(error).__name__ + ': '}{error}".split()
            )
            if "trust_remote_code" in text:
                todo = "if you trust its authors, set trust_remote_code = true under [model]"
                raise InputError("needs Python code from its repository", where=where, todo=todo) from error
            raise InputError(
                f"cannot be loaded: {text[:400]}", where=where, todo="check that it is a causal language model"
            ) from error
