import { render } from "preact";
import { useEffect, useState } from "preact/hooks";
import { get, type RunLine } from "./api";
import { Intervals } from "./charts";
import { ComparePage } from "./compare";
import { EpisodePage } from "./episode";
import { label, moment, number, seconds } from "./format";
import { copyLink, useKeys, useRow } from "./keys";
import { useAnswer, Waiting } from "./load";
import { address, go, parse, selection, useRoute } from "./route";
import { RunPage } from "./run";
import { SamplesPage } from "./samples";
import { EpisodesPage } from "./table";
import "./style.css";

const LOOK_AGAIN = 2000;

/** Counts up whenever a run's episodes have become others; a run that is at an end is not asked again. */
function useProgress(run: string | undefined): number {
  const [version, setVersion] = useState(0);
  useEffect(() => {
    if (!run || window.KUMITE_REPORT) return;
    let timer = 0;
    let over = false;
    const ask = async () => {
      try {
        const found = await get<{ version: number; state: string }>(`runs/${run}/progress`);
        if (over) return;
        setVersion(found.version);
        if (found.state !== "live") return;
      } catch { /* the server is asked again */ }
      if (!over) timer = window.setTimeout(ask, document.hidden ? 5 * LOOK_AGAIN : LOOK_AGAIN);
    };
    void ask();
    return () => { over = true; clearTimeout(timer); };
  }, [run]);
  return version;
}

const MAIN_METRICS = ["utility", "attack_success", "solved", "tests_passed"];
const MOST_METRICS = 4;

/** The metrics that have a column in the list of runs: the well-known ones, then those that most runs have. */
function mainMetrics(runs: RunLine[]): string[] {
  const counts = new Map<string, number>();
  for (const run of runs) for (const name of Object.keys(run.summary?.metrics ?? {})) counts.set(name, (counts.get(name) ?? 0) + 1);
  const rank = (name: string) => (MAIN_METRICS.includes(name) ? MAIN_METRICS.indexOf(name) : MAIN_METRICS.length);
  return [...counts.keys()].sort((one, other) => rank(one) - rank(other) || counts.get(other)! - counts.get(one)!).slice(0, MOST_METRICS);
}

function RunsPage() {
  const [again, setAgain] = useState(0);
  const answer = useAnswer<RunLine[]>("runs", again);
  useEffect(() => {
    if (!answer.value?.some((run) => run.state === "live")) return;
    const timer = setTimeout(() => setAgain(again + 1), 2 * LOOK_AGAIN);
    return () => clearTimeout(timer);
  }, [answer.value]);
  const runs = answer.value ?? [];
  useEffect(() => {
    const isHere = parse(location.hash).path.length === 0; // somebody may have gone elsewhere since this was drawn
    if (isHere && runs.length === 1 && !runs[0].error) go(["run", runs[0].key], undefined, true); // there is nothing to choose
  }, [answer.value]);
  const [picked, setPicked] = useState<string[]>([]);
  const [metric, setMetric] = useState("reward");
  const pick = (key: string) => setPicked(picked.includes(key) ? picked.filter((one) => one !== key) : [...picked, key]);
  // In a report, only what was written into it can be compared.
  const order = picked.length > 2 ? runs.map((run) => run.key).filter((key) => picked.includes(key)) : picked;
  const missing = window.KUMITE_REPORT !== undefined && !(`compare/${order.join("/")}` in window.KUMITE_REPORT);
  const bare = (key: string) => key.replace(/-[0-9a-f]{6}$/, "");
  const charted = runs.filter((run) => !run.error && run.summary.means?.[metric]);
  const names = [...new Set(runs.flatMap((run) => Object.keys(run.summary?.means ?? {})))];
  const metrics = mainMetrics(runs);
  const priced = runs.some((run) => run.summary?.cost);
  const open = (run: RunLine) => { if (!run.error) location.hash = address(["run", run.key]); };
  const [row] = useRow(runs.length, (place) => open(runs[place]));
  return (
    <main class="table-page">
      <h2>Runs</h2>
      {runs.length > 1 && <p class="row small">
        <button disabled={picked.length < 2 || missing} onClick={() => { location.hash = address(["compare", ...order]); }}>compare</button>
        <span class="dim">{picked.length < 2 ? "tick two or more runs of the same tasks" : missing ? "this report does not compare these" : order.map(bare).join(" → ")}</span>
      </p>}
      <Waiting of={answer}>
        <div class="scroll"><table>
          <thead><tr>{runs.length > 1 && <th><span class="hidden">compare</span></th>}<th>run</th><th>state</th><th>begun</th><th>environment</th><th>policy</th><th>episodes</th><th>failed</th><th>reward</th>{metrics.map((name) => <th>{label(name)}</th>)}<th>tokens</th>{priced && <th>cost</th>}<th>time</th></tr></thead>
          <tbody>{runs.map((run, place) => run.error ? <tr class={place === row ? "current" : ""}>{runs.length > 1 && <td />}<td>{run.name}</td><td colSpan={9 + metrics.length + (priced ? 1 : 0)} class="danger">{run.error}</td></tr> : (
            <tr class={place === row ? "current" : ""} onClick={() => open(run)}>
              {runs.length > 1 && <td onClick={(event) => event.stopPropagation()}><input type="checkbox" aria-label={`compare ${run.name}`} checked={picked.includes(run.key)} onChange={() => pick(run.key)} /></td>}
              <td><a href={address(["run", run.key])}>{run.name}</a></td>
              <td><span class={`badge ${run.state === "live" ? "good" : run.state === "cut off" ? "warn" : ""}`}>{run.state}</span></td>
              <td title={moment(run.created)}>{moment(run.created).slice(5, 16)}</td><td>{run.summary.environment ?? "–"}</td><td>{run.policy}</td>
              <td class="number">{number(run.summary.finished + run.summary.failed)}{run.summary.planned !== null && run.summary.planned !== run.summary.finished + run.summary.failed && ` / ${number(run.summary.planned)}`}</td>
              <td class={`number ${run.summary.failed ? "danger" : ""}`}>{number(run.summary.failed)}</td>
              <td class="number">{number(run.summary.reward)}</td>
              {metrics.map((name) => <td class="number">{number(run.summary.metrics[name] ?? null)}</td>)}
              <td class="number">{number(run.summary.prompt_tokens + run.summary.completion_tokens)}</td>{priced && <td class="number">{number(run.summary.cost?.total ?? null)}</td>}<td class="number">{seconds(run.summary.wall_seconds)}</td>
            </tr>
          ))}</tbody>
        </table></div>
        {charted.length > 1 && <div class="figures">
          <Intervals title={`${label(metric)} by run`} rows={charted.map((run) => [run.name, run.summary.means[metric]])}
            choice={<label class="choice small">chart <select value={metric} onChange={(event) => setMetric(event.currentTarget.value)}>{names.map((name) => <option value={name}>{label(name)}</option>)}</select></label>} />
        </div>}
      </Waiting>
    </main>
  );
}

/** The key c copies the address, on every page; what became of it is said for a moment. */
function CopiedLink() {
  const [said, setSaid] = useState("");
  useKeys({ c: () => void copyLink().then(() => setSaid("link copied"), () => setSaid("not copied: take the address of the browser")) });
  useEffect(() => {
    if (!said) return;
    const timer = setTimeout(() => setSaid(""), 2500);
    return () => clearTimeout(timer);
  }, [said]);
  return <span class="small good-news" role="status">{said}</span>;
}

function ThemeButton() {
  const [theme, setTheme] = useState(() => { try { return localStorage.getItem("theme") ?? "auto"; } catch { return "auto"; } });
  useEffect(() => {
    document.documentElement.dataset.theme = theme;
    try { localStorage.setItem("theme", theme); } catch { /* a page without storage keeps it for as long as it is open */ }
  }, [theme]);
  const next = { auto: "dark", dark: "light", light: "auto" }[theme] ?? "auto";
  return <button onClick={() => setTheme(next)} title="Colours">{theme}</button>;
}

function Page() {
  const route = useRoute();
  const [room, run, view, id] = route.path;
  const rest = route.path.slice(1);
  const here = room === "run" ? run : undefined;
  const progress = useProgress(here);
  const kept = selection(route.query);
  useEffect(() => { document.title = [id, view, run, "Kumite"].filter(Boolean).join(" · "); }, [id, view, run]);
  return (
    <>
      <header class="top">
        <a class="name" href="#/">Kumite</a>
        {room === "compare" && <nav aria-label="Where"><a href={address(route.path)} aria-current="page">compare</a></nav>}
        {here && <nav aria-label="Where">
          <a href={address(["run", here])} aria-current={view === undefined ? "page" : undefined}>{here.replace(/-[0-9a-f]{6}$/, "")}</a>
          <a href={address(["run", here, "episodes"], kept)} aria-current={view === "episodes" ? "page" : undefined}>episodes</a>
          {id && <a href={address(route.path, route.query)} aria-current="page">{id}</a>}
        </nav>}
        <span class="spacer" />
        <CopiedLink />
        <details class="keys"><summary>keys</summary><dl><dt>j k</dt><dd>next, previous step or row</dd><dt>[ ]</dt><dd>previous, next episode or page</dd><dt>/</dt><dd>search</dd><dt>c</dt><dd>copy a link</dd><dt>Enter</dt><dd>open the row</dd></dl></details>
        <ThemeButton />
      </header>
      {room === "compare" && run && view ? <ComparePage key={rest.join("/")} keys={rest} route={route} /> : !here ? <RunsPage /> : view === "episode" && id ? <EpisodePage key={id} run={here} id={id} route={route} />
        : view === "samples" && id ? <SamplesPage key={id} run={here} id={id} route={route} /> : view === "episodes" ? <EpisodesPage run={here} route={route} progress={progress} /> : <RunPage run={here} progress={progress} />}
    </>
  );
}

render(<Page />, document.getElementById("page")!);
