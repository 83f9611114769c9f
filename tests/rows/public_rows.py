"""Rows as public data sets and exporters write them, and the prompt that the advice must lead to."""

from __future__ import annotations

from typing import Any, NamedTuple

from vllm_hpc.rows.row import Row


class Public(NamedTuple):
    """A row, and the prompt to which the first option in the advice leads; None if no field may be proposed."""

    name: str
    row: Row
    prompt: str | None


HI: list[Any] = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
DOC = {"question": "Why?", "answer": "So."}
HARNESS = {"doc_id": 0, "doc": DOC, "target": "So.", "resps": [["So."]], "filtered_resps": ["So."], "doc_hash": "ab"}
HARNESS |= {"prompt_hash": "cd", "target_hash": "ef", "exact_match": 1.0}
GIVEN = {"gen_args_0": {"arg_0": "Question: Why?\nAnswer:", "arg_1": {"until": ["\n"]}}}
SOURCE = {"title": "News", "text": "It rains."}

PUBLIC = [
    Public("alpaca", {"instruction": "Add", "input": "1, 2", "output": "3"}, "Add\n\n1, 2"),
    Public("alpaca without input", {"instruction": "Add", "input": "", "output": "3"}, "Add"),
    Public("alpaca null input", {"instruction": "Add", "input": None, "output": "3"}, "Add"),
    Public("dolly", {"instruction": "Who?", "context": "Ann.", "response": "A", "category": "qa"}, "Who?\n\nAnn."),
    Public("GSM8K", {"question": "1 + 1?", "answer": "2"}, "1 + 1?"),
    Public("SQuAD",
           {"id": "5", "title": "T", "context": "It is red.", "question": "What?", "answers": {"text": ["red"]}},
           "It is red.\n\nWhat?"),
    Public("MMLU", {"question": "Q?", "subject": "law", "choices": ["a", "b"], "answer": 1}, "Q?\n\na\n\nb"),
    Public("MMLU-Pro", {"question_id": 7, "question": "Q?", "options": ["a", "b"], "answer": "A", "category": "law"},
           "Q?\n\na\n\nb"),
    Public("ARC",
           {"id": "M1", "question": "Q?", "choices": {"text": ["a"], "label": ["A"]}, "answerKey": "A"}, "Q?\n\na"),
    Public("HellaSwag",
           {"ind": 4, "activity_label": "Cars", "ctx_a": "A", "ctx_b": "b", "ctx": "A b", "endings": ["x"]},
           "A b"),
    Public("MT-bench", {"question_id": 81, "category": "writing", "turns": ["One", "Two"]}, "One"),
    Public("TruthfulQA",
           {"Type": "Adversarial", "Category": "Law", "Question": "Q?", "Best Answer": "a", "Source": "u"},
           "Q?"),
    Public("MBPP",
           {"task_id": 1, "text": "Write it.", "code": "def f(): ...", "test_list": ["assert f()"]}, "Write it."),
    Public("OpenAssistant",
           {"message_id": "a", "parent_id": None, "user_id": "u", "text": "Hi", "role": "prompter"}, "Hi"),
    Public("XSum", {"document": "Long.", "summary": "Short.", "id": "1"}, "Long."),
    Public("CNN/DM", {"article": "Long.", "highlights": "Short.", "id": "1"}, "Long."),
    Public("WMT", {"translation": {"de": "Hallo", "en": "Hello"}}, "Hello"),
    Public("OPUS", {"id": "0", "translation": {"ca": "Hola", "de": "Hallo"}}, "Hola"),
    Public("FLORES", {"id": 1, "URL": "u", "domain": "d", "topic": "t", "has_image": 0, "sentence": "One."}, "One."),
    Public("FLORES all", {"id": 1, "URL": "u", "sentence_eng_Latn": "One.", "sentence_fra_Latn": "Un."}, "One."),
    Public("BoolQ", {"question": "is it", "answer": True, "passage": "It is."}, "It is.\n\nis it"),
    Public("NQ open", {"question": "who", "answer": ["a"]}, "who"),
    Public("Natural Questions",
           {"id": "7", "document": {"html": "<p>"}, "question": {"text": "who", "tokens": ["who"]}},
           "who"),
    Public("hh-rlhf", {"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: a\n\nAssistant: c"}, None),
    Public("lm-eval-harness", HARNESS | {"arguments": GIVEN}, "Question: Why?\nAnswer:"),
    Public("lm-eval-harness, older", HARNESS | {"arguments": [["Q: Why?", {"until": []}]]}, "Q: Why?"),
    Public("lm-eval-harness, without arguments", HARNESS, "Why?"),
    Public("Elasticsearch", {"_index": "news", "_id": "1", "_score": 1, "_source": SOURCE}, "It rains."),
    Public("HotpotQA", {"id": "5", "question": "Q?", "answer": "a", "context": {"title": ["T"], "sentences": [["S"]]}},
           "Q?"),
    Public("RACE", {"example_id": "h", "article": "Long.", "answer": "A", "question": "Q?", "options": ["a", "b"]},
           "Long.\n\nQ?\n\na\n\nb"),
    Public("RAGAS", {"question": "Q?", "contexts": ["one", "two"], "ground_truth": "g"}, "one\n\ntwo\n\nQ?"),
    Public("OpenBookQA",
           {"id": "7", "question_stem": "The sun", "choices": {"text": ["a"], "label": ["A"]}}, "The sun"),
    Public("GPQA",
           {"Pre-Revision Question": "old", "Question": "Q?", "Correct Answer": "a", "Incorrect Answer 1": "b"}, "Q?"),
    Public("WinoGrande", {"sentence": "_ fell.", "option1": "A", "option2": "B", "answer": "1"}, "_ fell."),
    Public("PIQA", {"goal": "Open it", "sol1": "Pull", "sol2": "Push", "label": 1}, "Open it"),
    Public("SNLI", {"premise": "It rains.", "hypothesis": "It is wet.", "label": 0}, "It rains.\n\nIt is wet."),
    Public("MRPC", {"sentence1": "One", "sentence2": "Two", "label": 1, "idx": 0}, "One\n\nTwo"),
    Public("COPA", {"premise": "He fell.", "choice1": "a", "choice2": "b", "question": "cause"}, "He fell.\n\ncause"),
    Public("IMDB", {"text": "Good.", "label": 1}, "Good."),
    Public("FLAN", {"inputs": "Q?", "targets": "a", "task": "t"}, "Q?"),
    Public("Natural Instructions", {"id": "t1", "definition": "Add.", "inputs": "1", "targets": "2"}, "Add.\n\n1"),
    Public("HELM", {"id": "1", "input": {"text": "Q?"}, "references": [{"output": {"text": "a"}}]}, "Q?"),
    Public("Inspect", {"id": 1, "input": "Q?", "target": "A", "choices": ["a", "b"]}, "Q?\n\na\n\nb"),
    Public("Qdrant", {"id": 1, "payload": {"text": "Long."}, "vector": [0.1, 0.2]}, "Long."),
    Public("Weaviate", {"class": "A", "id": "1", "properties": {"content": "Long."}}, "Long."),
    Public("GitHub", {"number": 1, "title": "T", "body": "It fails.", "state": "open", "labels": []}, "It fails."),
    Public("YouTube", {"kind": "y", "etag": "e", "snippet": {"textDisplay": "Good.", "authorName": "a"}}, "Good."),
    Public("promptfoo", {"vars": {"question": "Q?"}, "assert": [{"type": "equals"}]}, "Q?"),
    Public("ToxiGen", {"generation": "x", "prompt_label": 1}, None),
    Public("MATH", {"problem": "Find x.", "level": "Level 5", "type": "Algebra", "solution": "1"}, "Find x."),
    Public("AIME", {"ID": "2024-I-1", "Problem": "Find x.", "Solution": "1", "Answer": 1}, "Find x."),
    Public("MetaMathQA", {"type": "a", "query": "Q?", "original_question": "P?", "response": "a"}, "Q?"),
    Public("SWE-bench",
           {"repo": "a/b", "instance_id": "a-1", "patch": "p", "problem_statement": "It fails."}, "It fails."),
    Public("LiveCodeBench", {"question_title": "T", "question_content": "Do it.", "platform": "p", "question_id": "1"},
           "Do it."),
    Public("BigCodeBench", {"task_id": "1", "complete_prompt": "def f", "instruct_prompt": "Do", "test": "t"}, "def f"),
    Public("Arena-Hard", {"question_id": "7", "cluster": "c", "turns": [{"content": "Do it."}]}, "Do it."),
    Public("AlpacaEval", {"instruction": "Do it.", "output": "Done.", "generator": "g", "dataset": "d"}, "Do it."),
    Public("Label Studio", {"id": 1, "data": {"text": "Good."}, "annotations": [], "predictions": []}, "Good."),
    Public("Argilla", {"id": "1", "fields": {"text": "Good."}, "responses": {"label": []}, "metadata": {}}, "Good."),
    Public("Prodigy", {"text": "Good.", "_input_hash": 1, "_task_hash": 2, "answer": "accept"}, "Good."),
    Public("LangSmith", {"id": "1", "inputs": {"question": "Q?"}, "outputs": {"answer": "a"}}, "Q?"),
    Public("Langfuse", {"id": "1", "input": {"question": "Q?"}, "expectedOutput": {"answer": "a"}}, "Q?"),
    Public("MongoDB", {"_id": {"$oid": "5f"}, "title": "T", "body": "Long."}, "Long."),
    Public("BEIR", {"_id": "1", "title": "T", "text": "Long.", "metadata": {}}, "Long."),
    Public("Stack Exchange", {"Id": "1", "Title": "T", "Body": "Long.", "Score": "5"}, "Long."),
    Public("Reddit", {"id": "a", "author": "b", "body": "Long.", "subreddit": "c", "score": 1}, "Long."),
    Public("Zotero", {"Key": "A1", "Title": "T", "Abstract Note": "Long."}, "Long."),
    Public("Slack", {"type": "message", "user": "U1", "text": "Hi", "ts": "1.0"}, "Hi"),
    Public("Qualtrics", {"ResponseId": "R_1", "Question text": "Why?"}, "Why?"),
    Public("arXiv", {"id": "1", "submitter": "A", "title": "T", "abstract": "Long.", "categories": "cs"}, "Long."),
    Public("SAMSum", {"id": "1", "dialogue": "A: Hi", "summary": "s"}, "A: Hi"),
    Public("XNLI", {"premise": {"ar": "x", "en": "It rains."}, "label": 1}, "It rains."),
    Public("Capybara", {"source": "A", "conversation": [{"input": "Hi", "output": "Hello"}]}, "Hi"),
    Public("SFT in our words", {"answer": "a", "target": "b", "category": "c", "key": "d", "_index": "e"}, None),
    Public("unknown", {"frage": "a", "antwort": "b"}, None),
    Public("only one text", {"uuid": "7", "frage": "a"}, "a"),
    Public("a name in capitals", {"ID": "7", "QUESTION": "a"}, "a"),
    Public("a name of a template's own", {"row": {"question": "a"}, "row_idx": 0}, "a"),
]  # fmt: skip

# What jq makes of them, row by row: the prompt, or the contents of the messages.
PACKED: list[tuple[str, Any, list[Any]]] = [
    ("Gemini", {"key": "a", "request": {"contents": [{"parts": [{"text": "Hi"}, {"text": "!"}]}]}}, [["Hi!"]]),
    (
        "Vertex",
        {
            "request": {
                "contents": [{"role": "user", "parts": [{"text": "a"}]}, {"role": "model", "parts": [{"text": "b"}]}],
                "systemInstruction": {"parts": [{"text": "s"}]},
            }
        },
        [["s", "a", "b"]],
    ),
    ("Gemini alone", {"contents": [{"role": "user", "parts": [{"text": "a"}]}]}, [["a"]]),
    ("Anthropic", {"custom_id": "a", "params": {"model": "m", "messages": HI}}, [["Hi", "Hello"]]),
    (
        "Anthropic with more",
        {"custom_id": "a", "params": {"max_tokens": 5, "system": "s", "stop_sequences": ["x"], "messages": HI}},
        [["s", "Hi", "Hello"]],
    ),
    (
        "Claude's export",
        {
            "uuid": "u",
            "name": "n",
            "chat_messages": [
                {"uuid": "a", "text": "Hi", "content": [{"type": "text"}], "sender": "human"},
                {"uuid": "b", "text": "Hello", "content": [{"type": "text"}], "sender": "assistant"},
            ],
        },
        [["Hi", "Hello"]],
    ),
    ("a log of a bot", {"session": [{"speaker": "Customer", "utterance": "Hi"}], "id": 1}, [["Hi"]]),
    ("Bedrock", {"recordId": "a", "modelInput": {"max_tokens": 5, "messages": HI}}, [["Hi", "Hello"]]),
    (
        "OpenAI's preferences",
        {"input": {"messages": HI[:1]}, "preferred_output": HI[1:], "non_preferred_output": HI[1:]},
        [["Hi"]],
    ),
    ("a log of requests", {"request": {"body": {"temperature": 0, "messages": HI}}, "status": 1}, [["Hi", "Hello"]]),
    ("rows by id", {"q1": {"prompt": "a"}, "q2": {"prompt": "b"}}, ["a", "b"]),
    ("rows by their own id", {"x": {"prompt": "a", "id": 1}, "y": {"prompt": "b", "id": 2}}, ["a", "b"]),
    ("texts by id", {"q1": "a", "q2": "b"}, ["a", "b"]),
    ("texts", ["a", "b"], ["a", "b"]),
    ("chats", [HI, HI], [["Hi", "Hello"]] * 2),
    ("a chat", HI, [["Hi", "Hello"]]),
    ("in data", {"version": "1", "data": [{"prompt": "a"}]}, ["a"]),
    (
        "phpMyAdmin",
        [{"type": "header", "version": "5", "comment": "Export"}, {"type": "table", "data": [{"prompt": "a"}]}],
        ["a"],
    ),
    (
        "Reddit's list",
        {"kind": "Listing", "data": {"after": "", "children": [{"kind": "t3", "data": {"prompt": "a"}}]}},
        ["a"],
    ),
    ("Crossref", {"status": "ok", "message": {"total-results": 1, "items": [{"prompt": "a"}]}}, ["a"]),
    ("Solr", {"responseHeader": {"status": 0}, "response": {"numFound": 1, "docs": [{"prompt": "a"}]}}, ["a"]),
    ("Europe PMC", {"version": "6", "hitCount": 1, "resultList": {"result": [{"prompt": "a"}]}}, ["a"]),
    ("beside metadata", {"metadata": {"version": 1}, "prompts": [{"prompt": "a"}]}, ["a"]),
    ("in an odd name", {"my rows": [{"prompt": "a"}]}, ["a"]),
    (
        "Hugging Face's server",
        {
            "features": [{"name": "prompt"}],
            "rows": [{"row_idx": 0, "row": {"prompt": "a"}}],
            "num_rows_total": 1,
            "partial": False,
        },
        ["a"],
    ),
    (
        "Elasticsearch's answer",
        {"took": 1, "timed_out": False, "hits": {"total": 1, "hits": [{"_source": {"prompt": "a"}}]}, "_shards": {}},
        ["a"],
    ),
    (
        "BIG-bench",
        {"name": "n", "description": "d", "keywords": [], "metrics": [], "examples": [{"prompt": "a", "target": "b"}]},
        ["a"],
    ),
    (
        "SQuAD's own file",
        {"version": "1", "data": [{"paragraphs": [{"context": "c", "qas": [{"id": "1", "question": "q"}]}]}]},
        ["c\n\nq"],
    ),
]
