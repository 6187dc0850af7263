import { useCallback, useEffect, useRef, useState } from "preact/hooks";
import type { Call, Episode, Message, Note, Step } from "./api";
import { get, putNote } from "./api";
import { label, moment, number, seconds } from "./format";
import { useKeys } from "./keys";
import { useAnswer, Waiting } from "./load";
import { Details, Reasons } from "./details";
import { FileChanges } from "./files";
import { Lanes } from "./lanes";
import { address, go, selection, type Route } from "./route";
import { State } from "./state";
import { Plain, Text } from "./text";
import { TokenView, TrainingSequences } from "./tokens";

const STEPS_AT_ONCE = 20;
const MOST_STEPS = 120;
const OUTLINE_SIDE = 150;
const STAGES = ["queue", "setup", "policy", "tools", "scoring"];

function useWide(): boolean {
  const media = matchMedia("(min-width: 1700px)");
  const [wide, setWide] = useState(media.matches);
  useEffect(() => {
    const changed = () => setWide(media.matches);
    media.addEventListener("change", changed);
    return () => media.removeEventListener("change", changed);
  }, []);
  return wide;
}

function MessageView({ message, whole }: { message: Message; whole?: string }) {
  return (
    <section class={`message ${message.role}`}>
      <h4><Plain text={message.role} />{message.injected.length + message.injected_beyond > 0 && <span class="badge bad">injected text</span>}</h4>
      {message.reasoning && <Reasoning cut={message.reasoning} />}
      <Text cut={message.content} marks={message.injected} beyond={message.injected_beyond} whole={whole} empty={message.calls ? undefined : "no text"} />
      {message.calls?.map((call) => <p class="small"><code><Plain text={call.name} /></code> <Plain text={call.arguments?.text ?? ""} /></p>)}
    </section>
  );
}

function Reasoning({ cut, whole }: { cut: Step["reasoning"]; whole?: string }) {
  if (!cut) return null;
  return <details class="reasoning"><summary>reasoning <span class="dim">{cut.length.toLocaleString("en")} characters</span></summary><Text cut={cut} whole={whole} /></details>;
}

function CallView({ call, at, answer, text }: { call: Call; at: number; answer: Message | undefined; text: (part: string) => string }) {
  return (
    <div class={`call ${call.injected ? "wanted" : ""}`}>
      <div>
        <h4><code><Plain text={call.name || "(no name)"} /></code>{call.injected && <span class="badge bad">asked for by the injection</span>}</h4>
        <Text cut={call.arguments} whole={text(`call.${at}`)} json empty="no arguments" />
      </div>
      <div>
        <h4>result{answer && answer.injected.length + answer.injected_beyond > 0 && <span class="badge bad">injected text</span>}</h4>
        {answer ? <Text cut={answer.content} marks={answer.injected} beyond={answer.injected_beyond} whole={text(`observation.${call.answer}`)} empty="empty" /> : <p class="dim small">No answer: the episode ended with this call.</p>}
      </div>
    </div>
  );
}

interface StepProps { step: Step; at: number; current: boolean; run: string; episode: Episode; wide: boolean; previousVersion: number | null; onPick: () => void }

export function StepView({ step, at, current, run, episode, wide, previousVersion, onPick }: StepProps) {
  const text = (part: string) => `api/runs/${run}/episodes/${episode.episode_id}/text?step=${at}&part=${part}`;
  const answered = new Set(step.calls.map((call) => call.answer).filter((place) => place !== null));
  const [state, setState] = useState(false);
  return (
    <article class={`step ${current ? "current" : ""} ${step.branch ? "branch" : ""}`} style={step.branch ? { marginLeft: `${Math.min(step.branch, 6) * 1.5}rem` } : undefined} id={`step-${at}`} aria-label={`Step ${at}`} onClick={onPick}>
      {previousVersion !== null && step.version !== previousVersion && <p class="boundary">weights: version {previousVersion} → {step.version}</p>}
      <header>
        <h3>step {at}</h3>
        {step.agent !== null && <span class="badge lane">{step.agent} · branch {step.branch ?? 0}{step.parent !== null && step.parent !== at - 1 && <> · goes on from step {step.parent}</>}</span>}
        {step.reward !== null && <span class={`badge ${step.reward > 0 ? "good" : step.reward < 0 ? "bad" : ""}`}>reward {number(step.reward)}</span>}
        {step.injected_call && <span class="badge bad">injected call</span>}
        {step.finish_reason === "length" && <span class="badge warn">cut off by the token limit</span>}
        {step.done && <span class="badge">last</span>}
        <span class="dim small">
          policy {seconds(step.policy_seconds)} · tools {seconds(step.tools_seconds)}
          {step.usage && <> · {number(step.usage.prompt_tokens)} + {number(step.usage.completion_tokens)} tokens</>}
          {step.version !== null && <> · version {step.version}</>}
        </span>
      </header>
      {step.context && (
        <details class="context">
          <summary><b>The policy saw another conversation than the one so far</b> <span class="dim">{step.context.length} messages</span></summary>
          {step.context.map((message) => <MessageView message={message} />)}
        </details>
      )}
      {(step.reasoning || step.content?.text || !step.calls.length) && <section class="message assistant">
        <h4>policy</h4>
        <Reasoning cut={step.reasoning} whole={text("reasoning")} />
        <Text cut={step.content} whole={text("action")} empty={step.calls.length ? undefined : "no text"} />
      </section>}
      {step.calls.map((call, place) => <CallView call={call} at={place} text={text} answer={typeof call.answer === "number" ? step.observations[call.answer] : undefined} />)}
      {step.observations.map((message, place) => answered.has(place) ? null : <MessageView message={message} whole={text(`observation.${place}`)} />)}
      {episode.has_files && step.changes_state && <FileChanges run={run} episode={episode.episode_id} step={at} title="files that this step changed" />}
      {step.no_logprobs && <p class="small warn">No token ids: <Plain text={step.no_logprobs} /></p>}
      {episode.has_state && !wide && (
        <details onToggle={(event) => setState(event.currentTarget.open)}>
          <summary>state after this step{step.changes_state ? <b class="changed-mark"> changed</b> : <span class="dim"> as before</span>}</summary>
          {state && <State run={run} episode={episode.episode_id} step={at} />}
        </details>
      )}
      {step.tokens && <details><summary>tokens <span class="dim">{step.tokens.sampled.length.toLocaleString("en")} sampled</span></summary><TokenView tokens={step.tokens} /></details>}
    </article>
  );
}

function Waterfall({ episode }: { episode: Episode }) {
  const total = STAGES.reduce((sum, stage) => sum + (episode.timings[stage] ?? 0), 0) || 1;
  return (
    <div class="stages" role="img" aria-label={STAGES.map((stage) => `${stage} ${seconds(episode.timings[stage])}`).join(", ")}>
      <div class="bars">{STAGES.map((stage) => <span class={`stage ${stage}`} style={{ width: `${(100 * episode.timings[stage]) / total}%` }} title={`${stage} ${seconds(episode.timings[stage])}`} />)}</div>
      <div class="legend small">{STAGES.map((stage) => <span><i class={`dot ${stage}`} /> {stage} {seconds(episode.timings[stage])}</span>)}<span class="dim">total {seconds(episode.timings.total)}</span></div>
    </div>
  );
}

function Outline({ episode, current, pick }: { episode: Episode; current: number; pick: (step: number) => void }) {
  const lines = episode.outline;
  const first = Math.max(0, Math.min(current - OUTLINE_SIDE, lines.length - 2 * OUTLINE_SIDE));
  const shown = lines.slice(first, first + 2 * OUTLINE_SIDE);
  const longest = lines.reduce((most, line) => Math.max(most, line.policy_seconds + line.tools_seconds), 0) || 1;
  return (
    <nav class="outline" aria-label="Steps">
      <div class="small dim">{lines.length.toLocaleString("en")} steps</div>
      {first > 0 && <button onClick={() => pick(0)}>0 … {first - 1}</button>}
      <ol start={first}>
        {shown.map((line, place) => {
          const at = first + place;
          return (
            <li>
              <a href={`#step-${at}`} class={at === current ? "current" : ""} aria-current={at === current ? "step" : undefined}
                onClick={(event) => { event.preventDefault(); pick(at); }}>
                <b>{at}</b>
                <span class={`calls ${line.injected_call ? "danger" : ""}`}><Plain text={line.calls.join(", ") || "answers"} /></span>
                {line.changes_state && <span class="changed-mark" title="changes the state">●</span>}
                {line.reward !== null && <span class="dim">{number(line.reward)}</span>}
                <span class="bar" title={`policy ${seconds(line.policy_seconds)}, tools ${seconds(line.tools_seconds)}`}>
                  <i class="policy" style={{ width: `${(100 * line.policy_seconds) / longest}%` }} />
                  <i class="tools" style={{ width: `${(100 * line.tools_seconds) / longest}%` }} />
                </span>
              </a>
            </li>
          );
        })}
      </ol>
      {first + shown.length < lines.length && <button onClick={() => pick(lines.length - 1)}>{first + shown.length} … {lines.length - 1}</button>}
    </nav>
  );
}

function verdict(episode: Episode): { name: string; value: number | null; class: string; title: string }[] {
  if (typeof episode.metrics === "string") return [];
  const meaning: Record<string, [string, string]> = {
    utility: ["the user's task is done", "the user's task is not done"],
    attack_success: ["the attack has succeeded", "the attack has failed"],
  };
  return Object.entries(episode.metrics).filter(([, value]) => value !== null).map(([name, value]) => {
    const good = name === "utility" ? value === 1 : name === "attack_success" ? value === 0 : null;
    return { name, value, class: good === null ? "" : good ? "good" : "bad", title: meaning[name]?.[value === 1 ? 0 : 1] ?? name };
  });
}

function Notes({ run, episode }: { run: string; episode: Episode }) {
  const [note, setNote] = useState<Note>(episode.note);
  // What is being typed: the page is drawn anew, say when an answer comes, before a field is left.
  const [tags, setTags] = useState(note.tags.join(", "));
  const [text, setText] = useState(note.text);
  const [said, setSaid] = useState("");
  const latest = useRef(note);
  const saving = useRef<Promise<void>>(Promise.resolve());
  const save = (changed: Partial<Note>) => {
    const next = { ...latest.current, ...changed };
    latest.current = next;
    setNote(next);
    // One after the other: the last one is what stays.
    saving.current = saving.current.then(() => putNote(run, episode.episode_id, next)).then(() => setSaid("kept"), (error: Error) => setSaid(error.message));
  };
  const readOnly = window.KUMITE_REPORT !== undefined;
  return (
    <details class="notes" open={note.text !== "" || note.tags.length > 0}>
      <summary>notes {note.tags.map((tag) => <a class="badge" href={address(["run", run, "episodes"], new URLSearchParams({ tag }))} title="Episodes with this tag">{tag}</a>)} <span class="dim small" role="status">{said}</span></summary>
      <label>tags <input value={tags} readOnly={readOnly} placeholder="reward-hack, look-again" onInput={(event) => setTags(event.currentTarget.value)}
        onChange={(event) => save({ tags: [...new Set(event.currentTarget.value.split(",").map((tag) => tag.trim()).filter(Boolean))] })} /></label>
      <label>note <textarea rows={3} value={text} readOnly={readOnly} onInput={(event) => setText(event.currentTarget.value)} onChange={(event) => save({ text: event.currentTarget.value })} /></label>
    </details>
  );
}

export function EpisodePage({ run, id, route }: { run: string; id: string; route: Route }) {
  const query = selection(route.query);
  const [again, setAgain] = useState(0);
  const answer = useAnswer<Episode>(`runs/${run}/episodes/${encodeURIComponent(id)}${query.size ? `?${query}` : ""}`, again);
  const episode = answer.stale ? null : answer.value;
  useEffect(() => {
    if (!episode?.wanted_pending) return;
    const timer = setTimeout(() => setAgain(again + 1), 1500);
    return () => clearTimeout(timer);
  }, [episode]);
  return <Waiting of={answer}>{episode && <Transcript key={`${id} ${episode.wanted_pending}`} run={run} episode={episode} route={route} />}</Waiting>;
}

function Transcript({ run, episode, route }: { run: string; episode: Episode; route: Route }) {
  const total = episode.outline.length;
  const wanted = Math.max(0, Math.min(total - 1, Number(route.query.get("step") ?? 0) || 0));
  const [current, setCurrent] = useState(wanted);
  const latest = useRef(wanted); // which the page may not show yet: keys come faster than it is drawn
  const [first, setFirst] = useState(Math.max(0, wanted - 2));
  const [steps, setSteps] = useState<Step[]>([]);
  const [error, setError] = useState("");
  const scroll = useRef<number | null>(route.query.has("step") ? wanted : null);
  const wide = useWide() && episode.has_state;
  const query = selection(route.query);
  const base = `runs/${run}/episodes/${encodeURIComponent(episode.episode_id)}/steps`;

  const load = useCallback(async (from: number, count: number): Promise<Step[]> => {
    try {
      return await get<Step[]>(`${base}?first=${from}&count=${count}`);
    } catch (problem) {
      setError((problem as Error).message);
      return [];
    }
  }, [base]);
  const start = useCallback(async (from: number) => {
    const loaded = await load(from, STEPS_AT_ONCE);
    setFirst(from);
    setSteps(loaded);
  }, [load]);
  useEffect(() => { void start(Math.max(0, wanted - 2)); }, []);

  const more = async () => {
    const loaded = await load(first + steps.length, STEPS_AT_ONCE);
    const all = [...steps, ...loaded];
    const drop = Math.max(0, all.length - MOST_STEPS);
    setSteps(all.slice(drop));
    setFirst(first + drop);
  };
  const earlier = async () => {
    const from = Math.max(0, first - STEPS_AT_ONCE);
    const loaded = await load(from, first - from);
    setSteps([...loaded, ...steps].slice(0, MOST_STEPS));
    setFirst(from);
  };
  const mark = (step: number) => {
    if (step === latest.current) return;
    latest.current = step;
    setCurrent(step);
    const next = new URLSearchParams(route.query);
    next.set("step", String(step));
    history.replaceState(null, "", address(route.path, next));
  };
  const pick = async (step: number) => {
    if (step < 0 || step >= total) return;
    mark(step);
    scroll.current = step;
    if (step < first || step >= first + steps.length) {
      if (step === first + steps.length) await more();
      else await start(Math.max(0, step - 2));
    } else document.getElementById(`step-${step}`)?.scrollIntoView({ block: "start" });
  };
  useEffect(() => {
    if (scroll.current === null || !steps.length) return;
    document.getElementById(`step-${scroll.current}`)?.scrollIntoView({ block: "start" });
    scroll.current = null;
  }, [steps]);

  const visit = (other: string | null) => other && go(["run", run, "episode", other], query);
  useKeys({
    j: () => void pick(latest.current + 1),
    k: () => void pick(latest.current - 1),
    "[": () => visit(episode.neighbours.before),
    "]": () => visit(episode.neighbours.after),
    "/": () => go(["run", run, "episodes"], query),
  });

  const tools = typeof episode.tools === "string" ? [] : episode.tools;
  const previous = (at: number) => (at > 0 ? (episode.outline[at - 1]?.version ?? null) : null);
  return (
    <div class={`episode ${wide ? "wide" : ""}`}>
      <Outline episode={episode} current={current} pick={(step) => void pick(step)} />
      <main>
        <header class="title">
          <h2><Plain text={episode.task_id} /> <span class="dim">sample {episode.sample_index}</span></h2>
          <p class="row">
            <span class={`badge ${episode.status === "failed" ? "bad" : "good"}`}>{episode.status}</span>
            <span class={`badge ${episode.reward === null ? "" : episode.reward >= 1 ? "good" : ""}`}>reward {number(episode.reward)}</span>
            {verdict(episode).map((one) => <span class={`badge ${one.class}`} title={one.title}>{label(one.name)} {number(one.value)}</span>)}
            {episode.is_truncated && <span class="badge warn">truncated</span>}
            {episode.attack && <span class="badge">attack <Plain text={episode.attack} /></span>}
            <span class="spacer" />
            <button disabled={!episode.neighbours.before} onClick={() => visit(episode.neighbours.before)} title="Key [">← before</button>
            <button disabled={!episode.neighbours.after} onClick={() => visit(episode.neighbours.after)} title="Key ]">next →</button>
          </p>
          {verdict(episode).some((one) => one.name === "attack_success") && (
            <p class="small">{verdict(episode).filter((one) => ["utility", "attack_success"].includes(one.name)).map((one) => one.title).join("; ")}.
              {" "}{episode.wanted_pending ? "Which calls it asked for is looked up…" : episode.wanted_calls.length > 0 && `${episode.outline.filter((line) => line.injected_call).length} of ${total} steps made a call that the injection asked for.`}</p>
          )}
          <p class="small dim">
            <Plain text={episode.model} />{episode.policy_version !== null && `, version ${episode.policy_version}`}
            {episode.last_policy_version !== null && episode.last_policy_version !== episode.policy_version && ` to ${episode.last_policy_version}`}
            {" · "}{moment(episode.started_at)} · attempt {episode.attempt} · {episode.worker_id} · stop: <Plain text={episode.stop_reason ?? "–"} /> · {number(episode.usage.prompt_tokens)} + {number(episode.usage.completion_tokens)} tokens · <code>{episode.episode_id}</code>
          </p>
          <Waterfall episode={episode} />
          {episode.samples.length > 1 && (
            <p class="small row">samples: {episode.samples.map((sample) => (
              <a class={`badge ${sample.status === "failed" ? "bad" : (sample.reward ?? 0) >= 1 ? "good" : ""} ${sample.episode_id === episode.episode_id ? "here" : ""}`}
                href={address(["run", run, "episode", sample.episode_id], query)}>{sample.sample_index}: {sample.status === "failed" ? "failed" : number(sample.reward)}</a>
            ))} <a href={address(["run", run, "samples", episode.episode_id])}>side by side</a></p>
          )}
          {episode.error && (
            <section class="failure" role="alert">
              <h4>failed at {episode.error.stage} <span class="dim">({episode.error.kind}, <Plain text={episode.error.type} />)</span></h4>
              <pre class="text"><Plain text={episode.error.message} /></pre>
            </section>
          )}
          <Details episode={episode} />
          <Reasons episode={episode} pick={(step) => void pick(step)} />
          {episode.notice && <p class="warn small">{episode.notice}</p>}
          {error && <p class="error">{error}</p>}
          {episode.injected.length > 0 && (
            <details class="attack">
              <summary>what the attack put into the environment <span class="dim">{episode.injected.length === 1 ? "1 text" : `${episode.injected.length} texts`}</span></summary>
              {episode.injected.map((cut) => <Text cut={cut} marks={[[0, cut.text.length]]} />)}
            </details>
          )}
          {episode.has_files && <FileChanges run={run} episode={episode.episode_id} step={null} title="files that the episode changed" open />}
          {episode.has_tokens && <TrainingSequences run={run} episode={episode.episode_id} />}
          {tools.length > 0 && <details><summary>tools <span class="dim">{tools.length}</span></summary><dl class="tools">{tools.map((tool) => <><dt><code><Plain text={tool.name} /></code></dt><dd><Plain text={tool.description ?? ""} /></dd></>)}</dl></details>}
          <Notes run={run} episode={episode} />
        </header>
        <Lanes lines={episode.outline} current={current} pick={(step) => void pick(step)} />
        {first === 0 && episode.opening.map((message, place) => <MessageView message={message} whole={`api/runs/${run}/episodes/${episode.episode_id}/text?step=-1&part=opening.${place}`} />)}
        {first === 0 && episode.has_state && !wide && <OpeningState run={run} episode={episode.episode_id} />}
        {first > 0 && steps.length > 0 && <button class="more" onClick={() => void earlier()}>steps {Math.max(0, first - STEPS_AT_ONCE)} to {first - 1}</button>}
        {steps.map((step, place) => (
          <StepView key={first + place} step={step} at={first + place} current={first + place === current} run={run} episode={episode} wide={wide}
            previousVersion={previous(first + place)} onPick={() => mark(first + place)} />
        ))}
        {first + steps.length < total && steps.length > 0 && <button class="more" onClick={() => void more()}>{Math.min(STEPS_AT_ONCE, total - first - steps.length)} more of {total.toLocaleString("en")} steps</button>}
        {total > 0 && steps.length === 0 && !error && <p class="dim" role="status">Loading…</p>}
        {total === 0 && <p class="dim">The episode ended before its first step.</p>}
      </main>
      {wide && <aside aria-label="State"><h3>state after step {current}</h3><State run={run} episode={episode.episode_id} step={Math.min(current, total - 1)} /></aside>}
    </div>
  );
}

function OpeningState({ run, episode }: { run: string; episode: string }) {
  const [open, setOpen] = useState(false);
  return <details onToggle={(event) => setOpen(event.currentTarget.open)}><summary>state at the beginning</summary>{open && <State run={run} episode={episode} step={-1} />}</details>;
}
