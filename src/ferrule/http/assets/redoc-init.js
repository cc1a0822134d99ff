"use strict";
Redoc.init(
  new URL(document.currentScript.dataset.openapiUrl, document.baseURI).href,
  {},
  document.getElementById("redoc"),
);
