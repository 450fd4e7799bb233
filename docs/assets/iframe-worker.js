/* A page read from a disk may not start a worker: there the search runs in a hidden frame. */
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      this.frame = document.createElement("iframe")
      this.frame.hidden = true
      document.body.appendChild(this.frame)
      const inner = this.frame.contentWindow
      const page = inner.document
      const add = source => new Promise(done => {
        const script = page.createElement("script")
        script.src = source
        script.onload = done
        page.body.appendChild(script)
      })
      inner.postMessage = data =>
        setTimeout(() => this.dispatchEvent(new MessageEvent("message", { data })))
      inner.importScripts = (...sources) =>
        sources.reduce((before, source) => before.then(() => add(source)), Promise.resolve())
      this.ready = add(String(url))
    }

    postMessage(data) {
      const inner = this.frame.contentWindow
      this.ready.then(() => inner.dispatchEvent(new MessageEvent("message", { data })))
    }

    terminate() { this.frame.remove() }
  }
}
