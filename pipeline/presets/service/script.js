"use strict";
(() => {
  const PAGE = 24;
  const MOST_HEADS = 3;
  const TRIES = 4;
  const at = (id) => document.getElementById(id);
  const results = at("results");
  let facts = null;   // what /gallery says
  let search = null;  // what is searched: { key | text | file, where, heads, limit }
  let shown = 0;      // matches of each head
  let turn = 0;       // the newest request; answers to older ones are dropped
  let preview = "";

  const element = (name, attributes = {}, ...children) => {
    const made = document.createElement(name);
    for (const [attribute, value] of Object.entries(attributes)) made.setAttribute(attribute, value);
    made.append(...children);
    return made;
  };
  const number = (value) => value.toLocaleString("en");
  const similar = (value) => value.toFixed(3).replace(/^(-?)0/, "$1");
  const say = (text) => { at("status").textContent = text; };
  const complain = (text) => {
    at("problem").textContent = text;
    at("problem").hidden = !text;
    if (text) say("");
  };
  const wait = (seconds) => new Promise((done) => setTimeout(done, 1000 * seconds));

  // The address holds the search, except the bytes of a picture.
  const written = () => {
    const parts = new URLSearchParams();
    if (search.key) parts.append("key", search.key);
    if (search.text) parts.append("text", search.text);
    for (const each of search.where) parts.append("where", each);
    for (const each of search.heads ?? []) parts.append("head", each);
    if (search.limit !== null) parts.append("limit", search.limit);
    const query = parts.toString();
    return location.pathname + (query && `?${query}`);
  };
  const read = () => {
    const parts = new URLSearchParams(location.search);
    const heads = parts.getAll("head").filter((name) => facts.heads.some((head) => head.name === name));
    search = {
      key: parts.get("key"), text: parts.get("text"), file: null, where: parts.getAll("where"),
      heads: heads.length ? heads : null, limit: parts.get("limit"),
    };
  };
  const change = (changes, { again = false } = {}) => {
    Object.assign(search, changes);
    history[again ? "replaceState" : "pushState"](null, "", written());
    run();
  };
  const subject = (one) => ({ key: null, text: null, file: null, ...one });

  const able = () => facts.heads.filter((head) => head.text || !search.text);  // words need a head that takes them
  const heads = () => {
    const names = able().map((head) => head.name);
    const chosen = search.heads?.filter((name) => names.includes(name));
    return chosen?.length ? chosen : usual(names);
  };
  const usual = (names) => {
    if (matchMedia("(max-width: 40rem)").matches) return names.slice(0, 1);
    if (names.length <= MOST_HEADS) return names;
    const best = facts.heads[0];
    const raw = able().find((head) => head.head === "raw" && head.backbone === best.backbone);
    return [...new Set([...names.slice(0, MOST_HEADS - 1), raw?.name ?? names[MOST_HEADS - 1]])];
  };
  const called = (name) => {
    const head = facts.heads.find((each) => each.name === name);
    const alone = new Set(facts.heads.map((each) => each.backbone)).size === 1;
    return head ? (alone ? head.head : `${head.backbone} · ${head.head}`) : name;
  };
  // How often a kept threshold is wrong: fmr is of comparisons, fpir of searches. Both are of pictures, not of words.
  const inWords = (kept) => {
    const [kind, rate] = kept.split(" ");
    const often = rate > 1 / 3 ? `${Math.round(100 * rate)} in 100` : `1 in ${number(Math.round(1 / rate))}`;
    return `wrong for ${often} ${kind === "fmr" ? "pictures of something else" : "searches for what is not here"}`;
  };
  const limitOf = (name) => {
    const { thresholds } = facts.heads.find((head) => head.name === name);
    const wanted = search.limit ?? Object.keys(thresholds)[0] ?? "none";
    if (wanted === "none") return null;
    if (wanted in thresholds && !search.text) return { at: thresholds[wanted], why: inWords(wanted) };
    return Number.isFinite(parseFloat(wanted)) ? { at: parseFloat(wanted), why: "by hand" } : null;
  };

  async function ask(path, options = {}) {
    for (let attempt = 1; ; attempt += 1) {
      let answer;
      try {
        answer = await fetch(path, options);
      } catch {
        throw new Error("The service does not answer. Is it still running?");
      }
      if (answer.status === 503 && attempt < TRIES) {
        const seconds = Math.min(10, Number(answer.headers.get("Retry-After")) || 1);
        say(`Busy: asking again in ${seconds} s …`);
        await wait(seconds);
        continue;
      }
      const body = answer.status === 204 ? null : await answer.json().catch(() => null);
      if (answer.ok) return body;
      const error = new Error(body?.error?.message ?? `The service answers ${answer.status}.`);
      error.status = answer.status;
      throw error;
    }
  }

  const fetched = (offset) => {
    const parts = new URLSearchParams({ k: PAGE, offset });
    for (const each of search.where) parts.append("where", each);
    for (const each of heads()) parts.append("head", each);
    if (search.file) return ask(`search?${parts}`, { method: "POST", body: search.file });
    parts.append(search.key ? "key" : "text", search.key ?? search.text);
    return ask(`search?${parts}`);
  };

  async function run({ more = false } = {}) {
    const mine = ++turn;
    complain("");
    draw();
    if (!search.key && !search.text && !search.file) { begin(); return; }
    results.setAttribute("aria-busy", "true");
    say(more ? "Fetching more …" : "Searching …");
    try {
      const answer = await fetched(more ? shown : 0);
      if (mine === turn) show(answer, more);
    } catch (error) {
      if (mine !== turn) return;
      if (error.status === 401) { lock(); return; }
      if (!more) { results.replaceChildren(); at("more").hidden = true; }
      complain(error.message);
    } finally {
      if (mine === turn) results.setAttribute("aria-busy", "false");
    }
  }

  const address = (changes) => {
    const before = search;
    search = { ...search, ...changes };
    const made = written();
    search = before;
    return made;
  };
  const picture = (path, name) => {
    const image = element("img", { src: path, alt: "", loading: "lazy", decoding: "async" });
    const frame = element("span", { class: "picture" }, image);
    image.addEventListener("error", () => { frame.classList.add("none"); frame.replaceChildren(name); });
    return frame;
  };
  const pathOf = (key) => {
    const plain = key.split("/").every((part) => !["", ".", ".."].includes(part));
    const quoted = encodeURIComponent(key);
    return `images/${plain ? quoted.replaceAll("%2F", "/") : quoted}`;
  };
  const card = (match) => {
    const link = element("a", { class: "card", href: address(subject({ key: match.key })), "data-key": match.key });
    const name = match.label ?? match.key;
    link.append(picture(match.image ?? pathOf(match.key), match.key));
    if (match.similarity !== undefined) {
      const parts = name.split("/");
      const beside = [match.domain, ...Object.values(match.attributes)].filter((value) => value !== null && !parts.includes(value));
      const spoken = element("span", { class: "hidden" }, "similarity ");
      link.append(element("b", {}, name), element("small", {}, spoken, [similar(match.similarity), ...beside].join(" · ")));
      link.title = [name, ...beside].join(" · ");
    } else link.append(element("span", { class: "hidden" }, `Search from ${match.key}`));
    return link;
  };
  const line = (limit, nothing) => element("li", { class: "limit" },
    `${nothing ? "no match" : "no match below"}: ${similar(limit.at)} (${limit.why})`);

  function show({ results: answers }, more) {
    if (!more) { results.replaceChildren(); shown = 0; }
    results.classList.toggle("only", answers.length === 1);
    for (const { head, matches } of answers) {
      let list = results.querySelector(`[data-head="${CSS.escape(head)}"] .grid`);
      if (!list) {
        const { score } = facts.heads.find((each) => each.name === head);
        list = element("ol", { class: "grid" });
        const title = element("h2", {}, called(head), element("small", {}, score));
        results.append(element("section", { class: "head", "data-head": head, "aria-label": called(head) }, title, list));
      }
      const limit = limitOf(head);
      for (const match of matches) {
        const under = limit !== null && match.similarity < limit.at;
        if (under && !list.querySelector(".limit")) list.append(line(limit, !list.children.length));
        list.append(element("li", under ? { class: "under" } : {}, card(match)));
      }
      if (!list.children.length) list.append(element("li", { class: "limit" }, "nothing in the gallery passes"));
    }
    shown += PAGE;
    at("more").hidden = !answers.some((answer) => answer.more);
    const count = Math.max(...answers.map(({ head }) =>
      results.querySelectorAll(`[data-head="${CSS.escape(head)}"] .card`).length));
    const unknown = search.text ? " How similar is similar enough is known of pictures, and not of words." : "";
    say(`${number(count)} pictures, the most similar first. Choose one to search from it.${unknown}`);
  }

  function begin() {
    shown = 0;
    at("more").hidden = true;
    results.classList.add("only");
    const list = element("ol", { class: "grid" }, ...facts.examples.map((key) => element("li", {}, card({ key }))));
    results.replaceChildren(element("section", { class: "head", "aria-label": "Examples" }, list));
    results.setAttribute("aria-busy", "false");
    say("Search with a picture of your own, or begin with one of these.");
  }

  // The form says what is searched.
  function draw() {
    if (preview) URL.revokeObjectURL(preview);
    preview = search.file ? URL.createObjectURL(search.file) : "";
    const source = preview || (search.key && pathOf(search.key));
    at("subject").querySelector("img")?.remove();
    at("subject").querySelector("svg").toggleAttribute("hidden", Boolean(source));
    if (source) {
      const image = element("img", { src: source, alt: "The picture that is searched with" });
      image.addEventListener("error", () => { image.remove(); at("subject").querySelector("svg").removeAttribute("hidden"); });
      at("subject").append(image);
    }
    at("about").textContent = search.key ? `like ${search.key}` : search.file?.name ?? "";
    at("text").value = search.text ?? "";
    const chosen = new Set(heads());
    const names = new Set(able().map((head) => head.name));
    for (const box of at("heads").querySelectorAll("input")) {
      box.checked = chosen.has(box.value);
      box.disabled = !names.has(box.value);
    }
    for (const old of at("filters").querySelectorAll("button")) old.remove();
    for (const each of search.where) {
      const [name, ...value] = each.split("=");
      const remove = element("button", { type: "button", class: "chip", "aria-label": `Remove the filter ${name} ${value.join("=")}` },
        `${name}: ${value.join("=")}`, element("span", { "aria-hidden": "true" }, "×"));
      remove.addEventListener("click", () => change({ where: search.where.filter((other) => other !== each) }));
      at("filters").append(remove);
    }
    at("filters").hidden = !at("filters").querySelector("select, input, button");
    const byHand = search.limit !== null && Number.isFinite(parseFloat(search.limit));
    const options = [...at("limit").options];
    for (const option of options) option.disabled = Boolean(search.text) && !["none", "hand"].includes(option.value);
    const usable = options.filter((option) => !option.disabled).map((option) => option.value);
    at("limit").value = byHand ? "hand" : usable.includes(search.limit) ? search.limit : usable[0];
    at("from").hidden = !byHand;
    if (byHand) at("from").value = search.limit;
    document.title = search.text || search.key || "Search by picture";
  }

  function furnish() {
    at("facts").textContent = `${number(facts.images)} pictures`;
    at("words").hidden = !facts.text;
    at("heads").hidden = facts.heads.length < 2;
    for (const head of facts.heads) {
      const box = element("input", { type: "checkbox", value: head.name });
      at("heads").append(element("label", { class: "chip" }, box, called(head.name), element("small", {}, head.score)));
    }
    for (const [name, { count, values }] of Object.entries(facts.filters)) {
      if (count < 2) continue;
      const having = { label: "labelled", domain: "from the domain" }[name] ?? `with ${name}`;
      const add = (value) => {
        const each = `${name}=${value}`;
        if (value && !search.where.includes(each)) change({ where: [...search.where, each] });
      };
      if (count === values.length) {
        const select = element("select", { "aria-label": `Only with this ${name}` }, element("option", { value: "" }, having),
          ...values.map((value) => element("option", { value }, value)));
        select.addEventListener("change", () => { add(select.value); select.value = ""; });
        at("filters").append(select);
      } else {
        const list = element("datalist", { id: `values-${name}` }, ...values.map((value) => element("option", { value })));
        const input = element("input", { list: list.id, placeholder: having, "aria-label": `Only with this ${name}` });
        input.addEventListener("change", () => { add(input.value); input.value = ""; });
        at("filters").append(input, list);
      }
    }
    const kept = [...new Set(facts.heads.flatMap((head) => Object.keys(head.thresholds)))];
    for (const name of kept) at("limit").append(element("option", { value: name }, inWords(name)));
    at("limit").append(element("option", { value: "none" }, "any"), element("option", { value: "hand" }, "from a similarity"));
    at("limits").hidden = false;
    at("search").hidden = false;
  }

  const take = (file) => {
    if (!file) return;
    if (file.size > facts.limits.bytes) {
      complain(`This picture has ${(file.size / 2 ** 20).toFixed(1)} MiB; ${facts.limits.bytes / 2 ** 20} are allowed.`);
      return;
    }
    change(subject({ file }));
  };

  function listen() {
    at("search").addEventListener("submit", (event) => {
      event.preventDefault();
      const text = at("text").value.trim();
      if (text) change(subject({ text }));
    });
    at("choose").addEventListener("click", () => at("file").click());
    at("shoot").addEventListener("click", () => at("camera").click());
    for (const id of ["file", "camera"]) {
      at(id).addEventListener("change", () => { take(at(id).files[0]); at(id).value = ""; });
    }
    at("heads").addEventListener("change", () => {
      const boxes = [...at("heads").querySelectorAll("input")];
      const chosen = boxes.filter((box) => box.checked).map((box) => box.value);
      change({ heads: chosen.length ? chosen : [facts.heads[0].name] }, { again: true });
    });
    at("limit").addEventListener("change", () => change({ limit: at("limit").value === "hand" ? "0.8" : at("limit").value }, { again: true }));
    at("from").addEventListener("change", () => change({ limit: at("from").value || "none" }, { again: true }));
    at("more").addEventListener("click", () => run({ more: true }));
    results.addEventListener("click", (event) => {
      const link = event.target.closest("a.card");
      if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
      event.preventDefault();
      change(subject({ key: link.dataset.key }));
      scrollTo({ top: 0 });
      results.focus({ preventScroll: true });
    });
    results.addEventListener("keydown", (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!step || !event.target.matches("a.card")) return;
      const links = [...results.querySelectorAll("a.card")];
      links[links.indexOf(event.target) + step]?.focus();
      event.preventDefault();
    });
    addEventListener("paste", (event) => {
      const file = [...(event.clipboardData?.files ?? [])].find((each) => each.type.startsWith("image/"));
      if (file) { event.preventDefault(); take(file); }
    });
    const carried = (event) => event.dataTransfer?.types.includes("Files");
    addEventListener("dragover", (event) => { if (carried(event)) { event.preventDefault(); at("drop").hidden = false; } });
    addEventListener("dragleave", (event) => { if (!event.relatedTarget) at("drop").hidden = true; });
    addEventListener("drop", (event) => {
      if (!carried(event)) return;
      event.preventDefault();
      at("drop").hidden = true;
      take(event.dataTransfer.files[0]);
    });
    addEventListener("popstate", () => { read(); run(); });
  }

  function lock() {
    at("search").hidden = true;
    at("unlock").hidden = false;
    results.replaceChildren();
    say("");
    at("token").focus();
  }
  const open = (token) => ask("session", { method: "POST", headers: { Authorization: `Bearer ${token}` } });
  at("unlock").addEventListener("submit", async (event) => {
    event.preventDefault();
    try {
      await open(at("token").value.trim());
      at("unlock").hidden = true;
      complain("");
      await start();
    } catch (error) {
      complain(error.status === 401 ? "This is not the token of this service." : error.message);
    }
  });

  async function start() {
    try {
      const token = new URLSearchParams(location.hash.slice(1)).get("token");
      if (token) {
        history.replaceState(null, "", location.pathname + location.search);
        await open(token);
      }
      const known = await ask("gallery");
      if (facts === null) {
        facts = known;
        furnish();
        listen();
      } else at("search").hidden = false;
      read();
      await run();
    } catch (error) {
      if (error.status === 401) lock();
      else complain(error.message);
    }
  }
  start();
})();
