import type { Tokens } from "./api";
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

/** The exact tokens of a step: what the policy read that it had not read before, and what it sampled. */
export function TokenView({ tokens }: { tokens: Tokens }) {
  const { sampled, sampled_texts: texts, logprobs } = tokens;
  const sum = logprobs?.reduce((total, one) => total + one, 0);
  return (
    <div class="tokens">
      <p class="small dim">
        {tokens.kept > 0 && <>{tokens.kept.toLocaleString("en")} tokens as after the step before. </>}
        {!tokens.goes_on && <b class="danger">The prompt does not go on from the step before: a branch begins here. </b>}
        {sum !== undefined && sampled.length > 0 && <>Log-probability {sum.toFixed(2)}, {(sum / sampled.length).toFixed(3)} per token. </>}
        {!texts && <>No tokenizer of this model on this machine: ids.</>}
      </p>
      {tokens.prompt.length > 0 && (
        <details>
          <summary>prompt: {(tokens.prompt.length + tokens.prompt_left_out).toLocaleString("en")} new tokens</summary>
          <pre class="ids prompt">
            {tokens.prompt.map((id, at) => (
              <span title={`id ${id}, in the prompt: no loss`}>{tokens.prompt_texts ? <Plain text={visible(tokens.prompt_texts[at])} /> : `${id} `}</span>
            ))}
            {tokens.prompt_left_out > 0 && <i> and {tokens.prompt_left_out.toLocaleString("en")} more</i>}
          </pre>
        </details>
      )}
      <div class="small">sampled: {sampled.length.toLocaleString("en")} tokens</div>
      <pre class="ids sampled">
        {sampled.map((id, at) => {
          const logprob = logprobs?.[at];
          const chance = logprob === undefined ? "" : `, log-probability ${logprob.toFixed(3)} (${(100 * Math.exp(logprob)).toFixed(1)} %)`;
          return <span style={{ backgroundColor: heat(logprob) ?? "" }} title={`id ${id}${chance}`}>{texts ? <Plain text={visible(texts[at])} /> : `${id} `}</span>;
        })}
      </pre>
    </div>
  );
}
