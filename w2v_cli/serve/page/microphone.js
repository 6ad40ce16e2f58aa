// The microphone: opened without any processing, at the browser's own rate.

/** What a person can put right: the message is shown as it is. */
export class Problem extends Error {}

export const SERVER_GONE =
  "The connection to the server has ended. What was said stays here. Start w2v-live again, and press Start.";

const SENTENCES = {
  NotAllowedError:
    "The browser was not allowed to use the microphone. Allow it for this page (the icon beside the address), and press Start again.",
  NotFoundError: "No microphone was found. Connect one, and press Start again.",
  NotReadableError:
    "The microphone could not be started: another program may be using it. Close that program, and press Start again.",
};
SENTENCES.SecurityError = SENTENCES.NotAllowedError;
SENTENCES.OverconstrainedError = SENTENCES.NotFoundError;
SENTENCES.AbortError = SENTENCES.NotReadableError;

/** Says why this page can have no microphone; an empty text: it can. */
export function whyNot() {
  if (!window.isSecureContext || !navigator.mediaDevices) {
    return (
      `Browsers give no microphone to ${location.origin}, because the address is neither https nor localhost. ` +
      "Open this page on the server's own machine, through an SSH tunnel, or behind a proxy with https."
    );
  }
  return window.AudioWorkletNode ? "" : "This browser is too old: it has no AudioWorklet.";
}

async function loadWorklet(context) {
  try {
    await context.audioWorklet.addModule("worklet.js");
  } catch {
    throw new Problem(SERVER_GONE); // it comes from there
  }
}

/**
 * Opens the microphone. `onBlock(samples, peak)` is called about 20 times a second, `onLost()` when the device goes.
 * Throws a Problem with a sentence of its own for each thing that can be wrong.
 */
export async function openMicrophone(onBlock, onLost) {
  const reason = whyNot();
  if (reason) throw new Problem(reason);
  const context = new AudioContext(); // its rate stays the browser's: other rates fail in Firefox
  let stream;
  try {
    // Echo cancelling, noise suppression and gain control rewrite speech.
    stream = await navigator.mediaDevices.getUserMedia({
      audio: { echoCancellation: false, noiseSuppression: false, autoGainControl: false, channelCount: 1 },
    });
    await loadWorklet(context);
    await context.resume();
  } catch (error) {
    stream?.getTracks().forEach((track) => track.stop());
    context.close();
    if (error instanceof Problem) throw error;
    throw new Problem(SENTENCES[error.name] ?? `The microphone could not be opened: ${error.message}`);
  }
  const recorder = new AudioWorkletNode(context, "recorder", {
    channelCount: 1,
    channelCountMode: "explicit", // stereo devices: the mean of both
  });
  let onEnd = () => {};
  recorder.port.onmessage = ({ data }) => (data ? onBlock(data.samples, data.peak) : onEnd());
  context.createMediaStreamSource(stream).connect(recorder);
  recorder.connect(context.destination); // silent; but some browsers run only what leads there
  stream.getAudioTracks()[0].onended = onLost;

  return {
    rate: context.sampleRate,
    /** Ends the recording after the last samples have been given to `onBlock`. */
    async close() {
      stream.getTracks().forEach((track) => track.stop());
      await new Promise((done) => {
        onEnd = done;
        recorder.port.postMessage(null);
        setTimeout(done, 500);
      });
      recorder.port.onmessage = null;
      await context.close();
    },
  };
}
