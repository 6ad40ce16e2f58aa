// Gathers the blocks of 128 samples that the browser gives into messages of about 50 ms: 16-bit samples and their peak.

const SECONDS = 0.05;

class Recorder extends AudioWorkletProcessor {
  constructor() {
    super();
    this.samples = new Int16Array(Math.round(SECONDS * sampleRate));
    this.size = 0;
    this.peak = 0;
    this.port.onmessage = () => {
      this.post(); // the end: what is gathered so far, then a last message
      this.port.postMessage(null);
    };
  }

  process(inputs) {
    const channel = inputs[0][0]; // none while the device is silent or away
    for (const value of channel ?? []) {
      const sample = Math.max(-1, Math.min(1, value));
      this.peak = Math.max(this.peak, Math.abs(sample));
      this.samples[this.size++] = Math.round(sample * 32767);
      if (this.size === this.samples.length) this.post();
    }
    return true;
  }

  post() {
    const samples = this.samples.slice(0, this.size);
    this.port.postMessage({ samples, peak: this.peak }, [samples.buffer]);
    this.size = 0;
    this.peak = 0;
  }
}

registerProcessor("recorder", Recorder);
