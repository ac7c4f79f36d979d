"""A process of its own that tries the tokenizer and the chat template of a folder, before any other process does.

Both are programs of strangers: a regular expression or a loop may never end, or ask for all memory. Nothing inside
their own process can stop them, so this file is a program that the system ends:

1. `nft_jax.model.hf.tokenizer` starts it, with the job as JSON on standard input.
2. It limits its own CPU time and memory, and prints the name of each file before it uses the file.
3. It prints the ids of the probe text by tokenizer.json alone, and the largest id that the template's texts have.
   Without a template, the probe text stands for them.
"""
# It imports nothing of nft_jax, and starts in a moment.
import json
import re
import resource
import sys
from contextlib import suppress

CPU_SECONDS, MEMORY = 15, 4 << 30
# Characters that a template may write around a short question, and the tokens of a text that was tried.
MOST = 1_000_000
CHATS = ([{"role": "user", "content": "1+1"}],
         [{"role": "system", "content": "Add."}, {"role": "user", "content": "1+1"}],
         [{"role": "user", "content": "1+1"}, {"role": "assistant", "content": "2"}])


def main() -> None:
    job = json.load(sys.stdin)
    for kind, limit in ((resource.RLIMIT_CPU, job["cpu_seconds"]), (resource.RLIMIT_AS, job["memory"])):
        # macOS knows no limit of the address space.
        with suppress(ValueError, OSError):
            resource.setrlimit(kind, (limit, limit))
    print("tokenizer.json", flush=True)
    from tokenizers import Tokenizer
    tokenizer = Tokenizer.from_file(job["file"])
    tokenizer.no_padding()
    tokenizer.no_truncation()
    ids = tokenizer.encode(job["probe"], add_special_tokens=False).ids
    print("chat_template", flush=True)
    texts = [job["probe"]] if job["template"] is None else renderings(job["template"], job["names"])
    print("tokenizer.json", flush=True)
    tokens = [ids, *(tokenizer.encode(text, add_special_tokens=False).ids for text in texts)]
    require_short(max(map(len, tokens)), "tokens")
    print(json.dumps({"ids": ids, "largest": max((i for part in tokens[1:] for i in part), default=0)}))


def renderings(template: str, names: dict[str, str]) -> list[str]:
    """The texts of CHATS. A chat that the template refuses is left out: whoever renders a question hears of it.
    Raises MemoryError, and ValueError for a text that is too long."""
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    # The environment of transformers, without its tag `generation`, which changes no text.
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True,
                                                extensions=["jinja2.ext.loopcontrols"])
    environment.filters["tojson"] = lambda value, **options: json.dumps(value)
    environment.globals["strftime_now"] = lambda form: form

    def raise_exception(message):
        raise RuntimeError(message)

    environment.globals["raise_exception"] = raise_exception
    template, texts = re.sub(r"{%-?\s*(end)?generation\s*-?%}", "", template), []
    for chat in CHATS:
        try:
            text = environment.from_string(template).render(messages=chat, add_generation_prompt=True, **names)
        except MemoryError:
            raise
        except Exception:
            continue
        require_short(len(text), "characters")
        texts.append(text)
    return texts


def require_short(size: int, unit: str) -> None:
    if size > MOST:
        raise ValueError(f"it makes {size:,} {unit} of a short text, and more than {MOST:,} are refused")


if __name__ == "__main__":
    main()
