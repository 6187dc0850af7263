"""What the gateway's tests share."""

import pytest

from tests.helpers.tiny_tokenizer import make_tokenizer
from workers.policy.chat_template import ChatTemplate


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> ChatTemplate:
    return ChatTemplate(str(make_tokenizer(tmp_path_factory.mktemp("tokenizer"))))
