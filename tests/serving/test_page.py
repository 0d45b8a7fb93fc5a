"""The page in headless Chromium, over the real application on a socket of its own."""

import base64
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

import raypixel.serving
from tests.serving.service import picture, pixels, serving, wait_until, write_model

pytestmark = [
    pytest.mark.serve,
    pytest.mark.browser,
    pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Debian's chromium"),
]
playwright_api = pytest.importorskip("playwright.sync_api")

FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
]  # fmt: skip
KEY = "a-key-of-sixteen-letters"
LEVELS = """(list) => [...document.querySelectorAll(list + " canvas")].map((canvas) => {
    const {data} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    return [...data].filter((_, k) => k % 4 === 0);
})"""
NAMED_ROLES = {
    "application", "button", "checkbox", "combobox", "dialog", "link", "progressbar", "radio", "slider",
    "spinbutton", "tab", "tabpanel", "textbox",
}  # fmt: skip


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("models")
    made = {
        "digits": write_model(root / "digits"),
        "classes": write_model(
            root / "classes", kind="gated_pixelcnn", use_class_conditioning=True, num_classes=3
        ),
        "color": write_model(root / "color", image_shape=(3, 6, 5), num_levels=256),
        "large": write_model(root / "large", image_shape=(1, 64, 64), num_levels=2),
    }
    return {name: str(path) for name, path in made.items()}


@pytest.fixture(scope="module")
def service(models):
    with serving(models=models) as service:
        yield service


@pytest.fixture(scope="module")
def browser():
    with playwright_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, service):
    """Open the page; no request may leave its origin, nothing may be complained of."""
    contexts, complaints, requested = [], [], []

    def complain(message) -> None:
        if message.type in ("error", "warning") and "Failed to load resource" not in message.text:
            complaints.append(message.text)

    def open_(address: str = "", *, url: str | None = None, **options):
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(30_000)
        page.on("console", complain)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: requested.append(request.url))
        page.goto(f"{url or service.url}/{address}")
        return page

    yield open_
    for context in contexts:
        context.close()
    assert complaints == []
    outside = [
        url for url in requested if not re.match(r"(http://127\.0\.0\.1:\d+/|data:|blob:)", url)
    ]
    assert outside == []


def ready(page) -> None:
    page.wait_for_selector("#go:not([disabled])")


def until(page, condition: str) -> None:
    """Wait for a condition; the page's security policy forbids Playwright's own way, which is eval."""
    for _ in range(1000):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(30)
    raise AssertionError(f"{condition} must come true")


def go(page) -> str:
    page.click("#go")
    return ended(page)


def ended(page) -> str:
    """Wait for the end of what was asked for; return what is said of it."""
    until(page, "document.getElementById('stop').hidden")
    return page.text_content("#status")


def api_pixels(service, **body) -> list[list[int]]:
    with service.client() as client:
        answer = client.post("/v1/samples", json=body)
    assert answer.status_code == 200, answer.text
    values = [pixels(image["png"]) for image in answer.json()["images"]]
    return [(each if each.ndim == 2 else each[..., 0]).flatten().tolist() for each in values]


def test_sampling_shows_rows_as_they_come_and_ends_with_the_answer_of_the_api(open_page, service):
    page = open_page()
    ready(page)
    page.evaluate("""() => {
        window.seen = [];
        new MutationObserver(() => window.seen.push(document.getElementById("progress").value))
            .observe(document.getElementById("progress"), {attributes: true, attributeFilter: ["value"]});
    }""")
    page.select_option("#model", "large")
    page.fill("#n", "12")
    page.fill("#seed", "3")
    assert re.fullmatch(r"12 images in [\d.]+ s\.", go(page))
    seen = page.evaluate("window.seen")
    assert seen == sorted(seen)
    assert len({value for value in seen if 0 < value < 1}) >= 3
    assert page.evaluate(LEVELS, "#samples") == api_pixels(service, model="large", n=12, seed=3)


@pytest.mark.parametrize("model", ["digits", "classes", "color"])
def test_every_kind_of_model_is_sampled(open_page, service, model):
    page = open_page()
    ready(page)
    page.select_option("#model", model)
    page.fill("#n", "4")
    go(page)
    assert page.evaluate(LEVELS, "#samples") == api_pixels(service, model=model, n=4, seed=0)
    assert page.is_visible("#class") == (model == "classes")


def test_a_completion_keeps_what_was_not_painted_over(open_page):
    page = open_page()
    ready(page)
    page.click("#tab-complete")
    page.check("input[name=tool][value=draw]")
    board = page.locator("#board")
    box = board.bounding_box()
    cell = box["width"] / 8
    page.mouse.move(box["x"] + 1.5 * cell, box["y"] + 0.5 * cell)
    page.mouse.down()
    page.mouse.move(box["x"] + 6.5 * cell, box["y"] + 4.5 * cell, steps=5)
    page.mouse.up()
    page.check("input[name=tool][value=forget]")
    page.mouse.move(box["x"] + 0.5 * cell, box["y"] + 5.5 * cell)
    page.mouse.down()
    page.mouse.move(box["x"] + 7.5 * cell, box["y"] + 5.5 * cell, steps=5)
    page.mouse.up()
    page.fill("#n", "3")
    with page.expect_request("**/v1/completions") as request:
        assert re.match("3 completions in", go(page))
    body = request.value.post_data_json
    drawn, observed = pixels(body["images"][0])[..., 0], pixels(body["observed"])[..., 0] >= 128
    assert drawn.max() == 255
    assert observed[:5].all()
    assert not observed[5:7].any()
    found = np.array(page.evaluate(LEVELS, "#completions")).reshape(3, 8, 8)
    assert (found[:, observed] == drawn[observed]).all()
    assert len(np.unique(found[:, ~observed], axis=0)) > 1


def test_a_picked_image_is_completed_as_its_class(open_page, service):
    page = open_page()
    ready(page)
    page.select_option("#model", "classes")
    page.fill("#n", "6")
    go(page)
    page.click("#samples button >> nth=5")
    assert page.text_content("#picked-name") == "Image 6, class 2"
    page.click("#use-complete")
    page.fill("#n", "2")
    with page.expect_request("**/v1/completions") as request:
        go(page)
    body = request.value.post_data_json
    assert body["class_label"] == 2
    expected = api_pixels(service, model="classes", n=6, seed=0)[5]
    assert pixels(body["images"][0])[..., 0].flatten().tolist() == expected
    observed = pixels(body["observed"])[..., 0] >= 128
    assert observed.tolist() == [[row < 4] * 8 for row in range(8)]


def test_a_completion_without_a_mask_asks_for_one(open_page):
    page = open_page()
    ready(page)
    page.click("#tab-complete")
    go(page)
    assert page.text_content("#error") == "Paint over something to be forgotten first."


def test_an_error_stands_alone_until_it_is_mended(open_page):
    page = open_page()
    ready(page)
    assert page.text_content("#status") == "Ready."
    page.fill("#n", "0")
    go(page)
    assert page.is_visible("#error")
    assert page.text_content("#status") == ""
    page.click("#tab-complete")
    assert not page.is_visible("#error")
    assert page.text_content("#status") == "Ready."
    page.fill("#seed", "-1")
    go(page)
    assert page.is_visible("#error")
    page.click("text=Take a sample")
    page.wait_for_selector("#error", state="hidden")


@pytest.mark.parametrize("size", [(1200, 720), (1440, 900), (900, 600), (390, 844)])
def test_what_acts_is_in_sight_without_scrolling(open_page, size):
    page = open_page(viewport=dict(zip(("width", "height"), size, strict=True)))
    ready(page)
    for tab in ("sample", "complete", "surprise"):
        page.click(f"#tab-{tab}")
        page.evaluate("window.scrollTo(0, 0)")
        box = page.locator("#go").bounding_box()
        assert box["y"] + box["height"] <= size[1]
        page.click("#go", trial=True)  # nothing lies over it
        if size == (1200, 720):
            assert page.evaluate("document.documentElement.scrollHeight") <= 760


def test_the_editor_is_worked_by_keys_and_takes_back(open_page):
    page = open_page()
    ready(page)
    page.click("#tab-sample")
    page.keyboard.press("ArrowRight")
    assert page.get_attribute("#tab-complete", "aria-selected") == "true"
    page.check("input[name=brush][value='1']", force=True)
    page.focus("#board")
    for key in ("ArrowDown", "ArrowRight", "Space", "Shift+ArrowRight"):
        page.keyboard.press(key)
    assert page.text_content("#board-said") == "Row 2, column 3, forgotten"
    page.keyboard.press("Control+z")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowRight")
    assert page.text_content("#board-said") == "Row 2, column 3, value 0"
    with page.expect_request("**/v1/completions") as request:
        go(page)
    observed = pixels(request.value.post_data_json["observed"])[..., 0] >= 128
    assert np.argwhere(~observed).tolist() == [[1, 1]]


def test_a_picture_is_loaded_and_a_broken_one_is_named(open_page):
    page = open_page()
    ready(page)
    page.click("#tab-surprise")
    x = np.tile(np.repeat([0, 255], 4), (8, 1))
    file = {"name": "x.png", "mimeType": "image/png", "buffer": base64.b64decode(picture(x))}
    page.set_input_files("#file", file)
    with page.expect_request("**/v1/scores") as request:
        go(page)
    assert (pixels(request.value.post_data_json["images"][0])[..., 0] == x).all()
    page.set_input_files("#file", {**file, "name": "broken.png", "buffer": b"no picture"})
    page.wait_for_selector("#error:not([hidden])")
    assert page.text_content("#error").startswith("broken.png is not a picture")


def test_the_surprise_map_tells_the_scores_of_the_api(open_page, service):
    page = open_page()
    ready(page)
    page.fill("#n", "1")
    go(page)
    page.click("#samples button")
    page.click("#use-surprise")
    page.wait_for_selector("#surprise:not([hidden])")
    page.focus("#heat")
    for key in ("ArrowDown", "ArrowDown", "ArrowRight"):
        page.keyboard.press(key)
    with service.client() as client:
        png = client.post("/v1/samples", json={"seed": 0}).json()["images"][0]["png"]
        answer = client.post("/v1/scores", json={"images": [png], "per_pixel": True}).json()
    score = answer["scores"][0]
    expected = f"Row 3, column 2: {score['surprise'][2][1]:.3f} nats"
    assert page.text_content("#readout") == expected
    assert page.text_content("#numbers dd") == f"{score['bits_per_dim']:.3f}"


def test_a_shared_address_makes_the_same_images_again(open_page, service):
    page = open_page("#model=classes&n=3&seed=5&temperature=0.8&class=2")
    page.wait_for_selector("#samples button:not([disabled])")
    ended(page)
    fields = [
        page.input_value(f"#{name}") for name in ("model", "n", "seed", "temperature", "class")
    ]
    assert fields == ["classes", "3", "5", "0.8", "2"]
    expected = api_pixels(service, model="classes", n=3, seed=5, temperature=0.8, class_label=2)
    assert page.evaluate(LEVELS, "#samples") == expected
    page.fill("#seed", "6")
    page.click("#share")
    until(page, "document.getElementById('status').textContent.startsWith('The link')")
    shared = page.url.partition("#")[2]
    again = open_page(f"#{shared}")
    again.wait_for_selector("#samples button:not([disabled])")
    assert again.input_value("#seed") == "6"
    assert again.evaluate(LEVELS, "#samples") != expected


def test_an_address_of_a_model_that_is_not_served_says_so(open_page):
    page = open_page("#model=cats&seed=1")
    page.wait_for_selector("#error:not([hidden])")
    assert "a model named cats, which is not served here" in page.text_content("#error")


def test_the_key_is_asked_for_until_it_is_right(open_page, models):
    with serving(models={"digits": models["digits"]}, keys=(KEY,)) as service:
        page = open_page(url=service.url)
        page.wait_for_selector("#key-dialog[open]")
        page.fill("#key", "a-wrong-key-of-letters")
        page.keyboard.press("Enter")
        until(page, "document.querySelector('#key-dialog[open] #key')?.value === ''")
        page.fill("#key", KEY)
        page.keyboard.press("Enter")
        ready(page)
        assert re.match("16 images in", go(page))
        assert KEY not in page.url
        page.reload()
        ready(page)
        assert not page.is_visible("#key-dialog")


def test_errors_are_sentences(open_page, models):
    with serving(models={"digits": models["digits"]}, limits={"max_n": 20}) as service:
        page = open_page(url=service.url)
        ready(page)
        page.fill("#n", "21")
        go(page)
        assert page.text_content("#error") == "Images must be 1 to 20."
        page.fill("#n", "20")
        page.fill("#seed", "-1")
        go(page)
        assert page.text_content("#error").startswith("The seed must be a whole number")
        page.fill("#seed", "1")
        assert re.match("20 images in", go(page))
        assert not page.is_visible("#error")
    page.click("#go")
    page.wait_for_selector("#error:not([hidden])")
    assert page.text_content("#error") == "The server cannot be reached."


def test_stopping_frees_the_slots(open_page, tmp_path):
    # 256 images of it take minutes on any machine: they outlast a click
    path = write_model(tmp_path / "slow", image_shape=(1, 64, 64), hidden_size=48, num_layers=8)
    with serving(models={"slow": str(path)}, num_slots=2) as service:
        page = open_page(url=service.url)
        ready(page)
        page.fill("#n", "256")
        page.click("#go")
        until(page, "document.getElementById('progress').value > 0")
        page.click("#stop")
        assert re.fullmatch(r"Stopped: \d+ of 256 images are complete\.", ended(page))
        stats = service.replica.models["slow"].engine.stats
        wait_until(lambda: stats.active_slots == stats.queued_images == 0)
        assert stats.jobs_cancelled == 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_control_has_a_name_and_text_stands_out(open_page, scheme):
    page = open_page(color_scheme=scheme)
    ready(page)
    page.select_option("#model", "classes")
    page.fill("#n", "3")
    go(page)
    page.click("#samples button >> nth=0")
    session = page.context.new_cdp_session(page)
    for tab in ("sample", "complete", "surprise"):
        page.click(f"#tab-{tab}")
        if tab == "surprise":
            go(page)
        nodes = session.send("Accessibility.getFullAXTree")["nodes"]
        controls = [
            (node["role"]["value"], node.get("name", {}).get("value", ""))
            for node in nodes
            if not node["ignored"] and node["role"]["value"] in NAMED_ROLES
        ]
        assert len(controls) > 8
        assert [role for role, name in controls if not name.strip()] == []
        assert page.evaluate(LOW_CONTRAST) == []


LOW_CONTRAST = """() => {
    const numbers = (color) => color.match(/[\\d.]+/g).map(Number);
    const light = (color) => {
        const [r, g, b] = numbers(color).map((v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const behind = (element) => {
        for (let e = element; e; e = e.parentElement) {
            const color = getComputedStyle(e).backgroundColor;
            if ((numbers(color)[3] ?? 1) > 0.99) return color;
        }
        return getComputedStyle(document.documentElement).backgroundColor;
    };
    document.getAnimations().forEach((animation) => animation.finish());
    const found = [];
    for (const element of document.querySelectorAll("body *")) {
        const hasText = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
        if (!hasText || !element.checkVisibility() || element.matches(":disabled, option, .skip")) continue;
        const [a, b] = [light(getComputedStyle(element).color), light(behind(element))];
        const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        if (ratio < 4.5) found.push(`${element.textContent.trim()}: ${ratio.toFixed(2)}`);
    }
    return found;
}"""


def test_a_phone_need_not_scroll_sideways(open_page):
    page = open_page(viewport={"width": 390, "height": 844}, device_scale_factor=2)
    ready(page)
    for tab in ("sample", "complete", "surprise"):
        page.click(f"#tab-{tab}")
        if tab == "complete":
            page.click("text=Forget the lower half")
        go(page)
        assert not page.is_visible("#error")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_nothing_in_the_page_names_another_host():
    folder = Path(raypixel.serving.__file__).parent / "page"
    for file in folder.iterdir():
        named = set(re.findall(r"https?://[\w.]+", file.read_text(encoding="utf-8")))
        assert {name for name in named if not name.startswith("http://www.w3.org")} <= set(), file
