import { useState } from "preact/hooks";
import type { Tokens } from "./api";
import { useAnswer, Waiting } from "./load";
import { Plain } from "./text";

/** A colour for how likely a token was: none for certain ones, red for those that were hardly expected. */
function heat(logprob: number | undefined): string | undefined {
  if (logprob === undefined || logprob > -0.02) return undefined;
  const share = Math.min(1, -logprob / 6);
  return `rgb(var(--heat) / ${(0.08 + 0.62 * share).toFixed(3)})`;
}

function visible(text: string): string {
  return text.replaceAll("\n", "⏎\n");
}

function Token({ id, text, logprob, trained }: { id: number; text: string | undefined; logprob?: number; trained: boolean }) {
  const chance = logprob === undefined ? "" : `, log-probability ${logprob.toFixed(3)} (${(100 * Math.exp(logprob)).toFixed(1)} %)`;
  const title = `id ${id}${chance}, ${trained ? "sampled: loss mask 1" : "in the prompt: loss mask 0"}`;
  return <span style={trained ? { backgroundColor: heat(logprob) ?? "" } : undefined} title={title}>{text === undefined ? `${id} ` : <Plain text={visible(text)} />}</span>;
}

/** How to read the heat map. */
function Legend({ texts }: { texts: boolean }) {
  return (
    <p class="small dim legend">
      <span class="ids prompt sample">prompt</span> loss mask 0
      <span class="ids sampled sample">sampled</span> loss mask 1, probability
      {[1, 0.5, 0.1, 0.01].map((chance) => <span class="sample" style={{ backgroundColor: heat(Math.log(chance)) ?? "" }}>{100 * chance} %</span>)}
      {!texts && <span>No tokenizer of this model on this machine: ids.</span>}
    </p>
  );
}

/** The exact tokens of a step: what the policy read that it had not read before, and what it sampled. */
export function TokenView({ tokens }: { tokens: Tokens }) {
  const { sampled, sampled_texts: texts, logprobs } = tokens;
  const sum = logprobs?.reduce((total, one) => total + one, 0);
  return (
    <div class="tokens">
      <Legend texts={texts !== null} />
      <p class="small dim">
        {tokens.kept > 0 && <>{tokens.kept.toLocaleString("en")} tokens as after the step before. </>}
        {!tokens.goes_on && <b class="danger">The prompt does not go on from the step before: a new training sequence begins here. </b>}
        {sum !== undefined && sampled.length > 0 && <>Log-probability {sum.toFixed(2)}, {(sum / sampled.length).toFixed(3)} per token. </>}
      </p>
      {tokens.prompt.length > 0 && (
        <details>
          <summary>prompt: {(tokens.prompt.length + tokens.prompt_left_out).toLocaleString("en")} new tokens, loss mask 0</summary>
          <pre class="ids prompt" tabIndex={0}>
            {tokens.prompt.map((id, at) => <Token id={id} text={tokens.prompt_texts?.[at]} trained={false} />)}
            {tokens.prompt_left_out > 0 && <i> and {tokens.prompt_left_out.toLocaleString("en")} more</i>}
          </pre>
        </details>
      )}
      <div class="small">sampled: {sampled.length.toLocaleString("en")} tokens, loss mask 1</div>
      <pre class="ids sampled">{sampled.map((id, at) => <Token id={id} text={texts?.[at]} logprob={logprobs?.[at]} trained />)}</pre>
    </div>
  );
}

const FOLDED = 300;
const SHOWN_ENDS = 60;

/** Tokens that the policy read; of many, both ends. */
function ReadTokens({ stretch }: { stretch: Stretch }) {
  const [open, setOpen] = useState(stretch.ids.length <= FOLDED);
  const tokens = (from: number, to: number) => stretch.ids.slice(from, to).map((id, place) => <Token id={id} text={stretch.texts?.[from + place]} trained={false} />);
  const count = stretch.ids.length;
  if (open) return <span class="read">{tokens(0, count)}</span>;
  return <span class="read">{tokens(0, SHOWN_ENDS)}<button class="fold" onClick={() => setOpen(true)}>{(count - 2 * SHOWN_ENDS).toLocaleString("en")} more tokens of prompt</button>{tokens(count - SHOWN_ENDS, count)}</span>;
}

interface Stretch { step: number; agent: string | null; version: number | null; trained: boolean; ids: number[]; texts: string[] | null; logprobs: number[] | null }
interface Sequence { branch: number | null; tokens: number; trained: number; first_step: number; last_step: number; stretches: Stretch[] }
interface Sequences { sequences: Sequence[]; left_out: number; missing: string | null }

function SequenceView({ sequence, at }: { sequence: Sequence; at: number }) {
  let version: number | null = null;
  let step = -1;
  return (
    <section class="sequence">
      <h4>sequence {at}{sequence.branch !== null && <> · branch {sequence.branch}</>} · steps {sequence.first_step} to {sequence.last_step} <span class="dim">{sequence.tokens.toLocaleString("en")} tokens, {sequence.trained.toLocaleString("en")} of them to learn from</span></h4>
      <pre class="ids whole" tabIndex={0}>
        {sequence.stretches.map((stretch) => {
          const isNew = stretch.step !== step;
          const changed = stretch.trained && version !== null && stretch.version !== version;
          const before = version;
          step = stretch.step;
          if (stretch.trained) version = stretch.version;
          return <>
            {isNew && <b class="mark-step" title={`step ${stretch.step} begins`}>step {stretch.step}</b>}
            {changed && <b class="boundary">weights: version {before} → {stretch.version}</b>}
            {stretch.trained ? <span class="trained">{stretch.ids.map((id, place) => <Token id={id} text={stretch.texts?.[place]} logprob={stretch.logprobs?.[place]} trained />)}</span> : <ReadTokens stretch={stretch} />}
          </>;
        })}
      </pre>
    </section>
  );
}

/** What a trainer gets of the episode: its sequences as a heat map, with the loss mask and all boundaries. */
export function TrainingSequences({ run, episode }: { run: string; episode: string }) {
  const [open, setOpen] = useState(false);
  const answer = useAnswer<Sequences>(open ? `runs/${run}/episodes/${episode}/sequences` : null);
  const found = answer.value;
  return (
    <details class="sequences" onToggle={(event) => setOpen(event.currentTarget.open)}>
      <summary>tokens of the whole episode, as a trainer gets them</summary>
      {open && <Waiting of={answer}>{found && <>
        {found.missing !== null && <p class="small warn">No sequence: <Plain text={found.missing} /></p>}
        {found.sequences.length > 0 && <Legend texts={found.sequences.every((one) => one.stretches.every((stretch) => stretch.texts !== null))} />}
        {found.sequences.map((sequence, at) => <SequenceView sequence={sequence} at={at} />)}
        {found.left_out > 0 && <p class="small dim">{found.left_out.toLocaleString("en")} more tokens are not shown; `kumite sequences` writes all.</p>}
      </>}</Waiting>}
    </details>
  );
}
