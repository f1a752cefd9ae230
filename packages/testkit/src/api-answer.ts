/** One answer of the API or of an agent, whatever its status is. */
export interface ApiAnswer {
  status: number;
  body: Record<string, unknown>;
  headers: Headers;
}

export async function answerOf(response: Response): Promise<ApiAnswer> {
  const body = (await response.json()) as Record<string, unknown>;
  return { status: response.status, body, headers: response.headers };
}
